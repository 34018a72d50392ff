"""Files and folders appear whole or not at all, even if the process is killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from t2tdeploy.errors import InputError
from t2tdeploy.files import (
    atomic_directory,
    atomic_file,
    naming,
    recover,
    remove_directory,
    require_folder,
    require_place,
    require_writable,
    sha256_of,
    write_json,
    written_file,
)
from tests.limits import no_file_larger_than
from tests.unprivileged import as_nobody, folder_for_all


class StopError(Exception):
    pass


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_appears_at_the_end_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    for content in ("old", "new"):
        with atomic_file(path) as temporary:
            before = path.read_text() if path.exists() else None
            temporary.write_text(content)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content
    assert names(path.parent) == {"a.txt"}


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(target: Path) -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half of the n")
            raise StopError

    with pytest.raises(StopError):
        write(path)
    assert path.read_text() == "old"
    with pytest.raises(StopError):
        write(tmp_path / "b.txt")
    assert names(tmp_path) == {"a.txt"}


def test_a_file_of_the_user_is_written_where_its_name_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("far/a.txt")
    with written_file(tmp_path / "link") as place:
        place.write_text("new")
        assert not (tmp_path / "far/a.txt").exists(), "it appears when it is whole"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far/a.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        with written_file(tmp_path / "pipe") as place:
            place.write_text("new")
        assert read.result(timeout=10) == "new"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "it is a folder"),
        ("file/out", "file is not a folder that may be written to"),
        ("file/far/out", "file is not a folder that may be written to"),
        ("loop", "Too many levels of symbolic links"),
        ("n" * 250, "File name too long"),  # that of the temporary file beside it would be
        (".", "it is a folder"),
    ],
)
def test_what_could_not_be_written_is_known_before(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=f"cannot write .*{words}"):
        require_writable(tmp_path / name)


def test_what_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "to nothing").symlink_to("far/nothing")
    os.mkfifo(tmp_path / "pipe")
    before = names(tmp_path)
    for name in ("file", "link", "to nothing", "pipe", "new", "far/new", "/dev/null", "/dev/stdout"):
        require_writable(tmp_path / name)
    assert names(tmp_path) == before
    assert (tmp_path / "file").read_text() == "old"


def test_a_place_that_this_user_may_not_write_to_is_known_before() -> None:
    with folder_for_all() as folder:
        (folder / "file").touch(0o644)
        os.mkfifo(folder / "pipe", 0o600)
        (folder / "secret").mkdir(0o700)
        with as_nobody():
            for name in ("new", "far/new", "file", "pipe", "secret/new"):
                with pytest.raises(InputError, match="cannot write"):
                    require_writable(folder / name)
            with pytest.raises(InputError, match=f"{folder} is not a folder that may be written to"):
                require_place(folder / "new")
            for place in (folder, folder / "new", folder / "secret" / "new" / "far", folder / "file"):
                with pytest.raises(InputError, match=r"cannot write"):
                    require_folder(place)


def test_a_folder_may_be_there_or_not_yet(tmp_path: Path) -> None:
    for name in (".", "new", "new/far"):
        require_folder(tmp_path / name)
    (tmp_path / "file").touch()
    for name, words in (("file", "is not a folder that may be written to"), ("file/new", "file is not a folder")):
        with pytest.raises(InputError, match=words):
            require_folder(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_disk_without_room_leaves_the_old_content_and_is_named(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "a"
    content = path / "inner" if folder else path
    content.parent.mkdir(exist_ok=True)
    content.write_text("old")

    def write() -> None:
        with atomic_directory(path, replace=True) if folder else atomic_file(path) as temporary:
            (temporary / "inner" if folder else temporary).write_text("new" * 100)

    with no_file_larger_than(10), pytest.raises(OSError) as caught:
        write()
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert content.read_text() == "old"
    assert names(tmp_path) == {"a"}


def test_only_errors_of_writing_get_a_name(tmp_path: Path) -> None:
    def fail(error: OSError) -> None:
        with naming(tmp_path):
            raise error

    for error, expected in (
        (OSError(errno.ENOSPC, "full"), str(tmp_path)),
        (OSError(errno.ENOSPC, "full", "elsewhere"), "elsewhere"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), None),
        (TimeoutError("busy"), None),
    ):
        with pytest.raises(OSError) as caught:
            fail(error)
        assert caught.value.filename == expected


def test_a_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        pass
    assert not names(tmp_path)


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    with atomic_directory(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a.txt").write_text("a")
        assert not path.exists()
    assert (path / "inner" / "a.txt").read_text() == "a"
    assert names(path.parent) == {"run"}


def test_a_folder_is_replaced_as_a_whole_and_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with pytest.raises(FileExistsError), atomic_directory(path):
        pytest.fail("the work was begun")
    assert names(path) == {"old.txt"}
    with atomic_directory(path, replace=True) as temporary:
        (temporary / "new.txt").write_text("new")
        assert names(path) == {"old.txt"}
    assert names(path) == {"new.txt"}
    assert names(tmp_path) == {"run"}


@pytest.mark.parametrize("there", [False, True])
def test_what_a_link_leads_to_is_replaced(tmp_path: Path, there: bool) -> None:
    link, path = tmp_path / "current", tmp_path / "versions" / "v1"
    link.symlink_to(path)
    if there:
        path.mkdir(parents=True)
        (path / "old.txt").write_text("old")
        with pytest.raises(FileExistsError), atomic_directory(link):
            pytest.fail("the work was begun")
    for number in range(2):
        with atomic_directory(link, replace=True) as temporary:
            (temporary / f"new{number}.txt").write_text("new")
        assert link.readlink() == path
        assert names(link) == names(path) == {f"new{number}.txt"}
    assert (names(tmp_path), names(path.parent)) == ({"current", "versions"}, {"v1"})


def test_a_link_that_was_left_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    """Earlier versions renamed the link itself."""
    (tmp_path / "v1").mkdir()
    (tmp_path / ".current.0123abcd.old").symlink_to(tmp_path / "v1")
    (tmp_path / "current").mkdir()
    recover(tmp_path / "current")
    assert names(tmp_path) == {"current", "v1"}


@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "run"
    if there:
        path.mkdir()
        (path / "old.txt").write_text("old")

    def write() -> None:
        with atomic_directory(path, replace=True) as temporary:
            (temporary / "new.txt").write_text("half")
            raise StopError

    with pytest.raises(StopError):
        write()
    assert names(tmp_path) == ({"run"} if there else set())
    assert not there or (path / "old.txt").read_text() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from t2tdeploy.files import atomic_directory, atomic_file

folder = Path(sys.argv[1])
with atomic_file(folder / "a.txt") as file, atomic_directory(folder / "run", replace=True) as directory:
    file.write_text("half of the n")
    (directory / "a.txt").write_text("half of the n")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "a.txt", tmp_path / "run" / "a.txt"):
        path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "run" / "a.txt").read_text() == "old"
    leftovers = names(tmp_path) - {"a.txt", "run"}
    assert all(name.startswith(".") and name.endswith(".partial") for name in leftovers)


GAP = """
import os, signal, sys
from pathlib import Path
from t2tdeploy.files import atomic_directory

path = Path(sys.argv[1])
def replace(self, target, rename=Path.replace):
    if self.name.endswith(".partial"):
        os.kill(os.getpid(), signal.SIGKILL)  # the old folder is out of the way, the new one not yet there
    return rename(self, target)
Path.replace = replace
with atomic_directory(path, replace=True) as directory:
    (directory / "a.txt").write_text("new")
"""


def test_the_only_copy_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "a.txt").write_text("old")
    done = subprocess.run([sys.executable, "-c", GAP, str(path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    recover(path)
    assert (path / "a.txt").read_text() == "old"
    assert names(tmp_path) == {"run"}


def test_leftovers_of_the_same_folder_are_removed_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for name in ("run", ".run.abcdef01.old", ".run.abcdef02.partial", ".run2.abcdef03.old", ".run.old", "x.partial"):
        (tmp_path / name).mkdir()
    with atomic_directory(path, replace=True):
        pass
    assert names(tmp_path) == {"run", ".run2.abcdef03.old", ".run.old", "x.partial"}


def test_a_folder_is_removed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "a.txt").touch()

    def interrupted(_: Path) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr("t2tdeploy.files.shutil.rmtree", interrupted)
        with pytest.raises(StopError):
            remove_directory(path)
    assert not path.exists()
    recover(path)
    assert not names(tmp_path)


def test_json_keeps_its_letters(tmp_path: Path) -> None:
    content = {"name": "Käse", "items": [1, None, 0.5]}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "Käse" in text
    assert text.endswith("}\n")


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
