"""What was put comes back as it was or not at all, from several processes, within the bound."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2tdeploy.errors import OperationalError
from t2tdeploy.progress import SilentReporter
from t2tdeploy.training.graph.cache import GraphCache, default_directory

KEY = "a" * 64


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def writer(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "graph.onnx").write_bytes(content)
        (folder / "deep" / "data.bin").write_bytes(content[::-1])

    return write


def unexpected(folder: Path) -> None:
    pytest.fail("built although it was there")


def content(folder: Path | None) -> bytes:
    assert folder is not None
    result = (folder / "graph.onnx").read_bytes()
    assert (folder / "deep" / "data.bin").read_bytes() == result[::-1]
    return result


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def cache(tmp_path: Path, listener: Listener) -> GraphCache:
    return GraphCache(tmp_path / "deep" / "cache", reporter=listener)


def test_what_was_put_is_there_for_everybody(cache: GraphCache, listener: Listener) -> None:
    assert cache.get(KEY) is None
    assert content(cache.put(KEY, writer(b"graph"))) == b"graph"
    assert content(GraphCache(cache.directory).get(KEY)) == b"graph"
    assert cache.get("b" * 64) is None
    assert listener.messages == []


def cut(folder: Path) -> None:
    (folder / "graph.onnx").write_bytes(b"gra")


def flip(folder: Path) -> None:
    (folder / "deep" / "data.bin").write_bytes(b"hparX")


def lose(folder: Path) -> None:
    (folder / "graph.onnx").unlink()


def lose_manifest(folder: Path) -> None:
    (folder / "entry.json").unlink()


def empty_manifest(folder: Path) -> None:
    (folder / "entry.json").write_bytes(b"")


def other_manifest(folder: Path) -> None:
    (folder / "entry.json").write_text('{"files": [1]}')


def no_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.write_bytes(b"a file")


FAULTS = [cut, flip, lose, lose_manifest, empty_manifest, other_manifest, no_folder]


@pytest.mark.parametrize("damage", FAULTS)
def test_a_damaged_entry_is_named_removed_and_built_again(
    cache: GraphCache, listener: Listener, damage: Callable[[Path], None]
) -> None:
    entry = cache.put(KEY, writer(b"graph"))
    damage(entry)
    assert cache.get(KEY) is None
    assert [str(entry) in message and "damaged" in message for message in listener.messages] == [True]
    assert not entry.exists()
    assert content(cache.put(KEY, writer(b"graph"))) == b"graph"
    assert content(cache.get(KEY)) == b"graph"


@pytest.mark.parametrize("damage", FAULTS)
def test_a_damaged_entry_gives_way_to_what_is_put(cache: GraphCache, damage: Callable[[Path], None]) -> None:
    damage(cache.put(KEY, writer(b"graph")))
    assert content(cache.put(KEY, writer(b"another"))) == b"another"
    assert content(cache.get(KEY)) == b"another"


def test_a_sound_entry_stays(cache: GraphCache) -> None:
    cache.put(KEY, writer(b"first"))
    assert content(cache.put(KEY, writer(b"second"))) == b"first"


def test_a_failure_leaves_nothing(cache: GraphCache) -> None:
    def fail(folder: Path) -> None:
        (folder / "graph.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.put(KEY, fail)
    assert cache.get(KEY) is None


def test_what_a_killed_process_left_goes_at_the_next_put(cache: GraphCache) -> None:
    half = cache.directory / f".{KEY}.0123abcd.partial"
    half.mkdir(parents=True)
    (half / "graph.onnx").write_bytes(b"half")
    assert cache.get(KEY) is None
    cache.put("b" * 64, writer(b"graph"))
    assert not half.exists()


def sizes(cache: GraphCache) -> int:
    return sum(path.stat().st_size for path in cache.directory.rglob("*") if path.is_file())


def age(cache: GraphCache, key: str, seconds: float) -> None:
    path = cache.directory / key / "entry.json"
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_the_bound_holds_and_those_unused_for_longest_go(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path, max_bytes=10_000)
    for number in range(3):
        cache.put(str(number), writer(bytes(1500)))
        age(cache, str(number), 60 - number)
    assert sizes(cache) <= 10_000
    assert cache.get("0") is not None  # now the youngest
    cache.put("3", writer(bytes(1500)))
    assert sizes(cache) <= 10_000
    assert [cache.get(str(number)) is not None for number in range(4)] == [True, False, True, True]


def test_what_is_larger_than_the_bound_is_kept_alone(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path, max_bytes=1000)
    cache.put("small", writer(b"graph"))
    cache.put("large", writer(bytes(5000)))
    assert content(cache.get("large")) == bytes(5000)
    assert cache.get("small") is None


def put_many(directory: Path, start: Any, process: int) -> None:
    start.wait()
    cache = GraphCache(directory, max_bytes=20_000)
    for key in range(20):
        wanted = key.to_bytes(2, "big") * 500
        assert content(cache.put(str(key), writer(wanted))) == wanted


def test_processes_that_put_the_same_all_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [context.Process(target=put_many, args=(tmp_path, start, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    cache = GraphCache(tmp_path)
    assert content(cache.get("19")) == (19).to_bytes(2, "big") * 500
    assert sizes(cache) <= 20_000
    assert not list(tmp_path.glob(".*.partial"))


def test_a_place_that_cannot_be_written_stops_nobody(tmp_path: Path, listener: Listener) -> None:
    (tmp_path / "file").touch()
    cache = GraphCache(tmp_path / "file" / "cache", reporter=listener)
    assert cache.get(KEY) is None
    folder = cache.put(KEY, writer(b"graph"))
    assert content(folder) == b"graph"
    assert [str(cache.directory) in message and "not kept" in message for message in listener.messages] == [True]
    del cache
    assert not folder.exists()


def test_a_full_disk_stops_nobody_and_leaves_no_half(
    cache: GraphCache, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path, **_: object) -> None:
        (target / "graph.onnx").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("t2tdeploy.training.graph.cache.shutil.copytree", full)
        assert content(cache.put(KEY, writer(b"graph"))) == b"graph"
    assert ["No space left on device" in message for message in listener.messages] == [True]
    assert cache.get(KEY) is None
    assert not list(cache.directory.glob(".*.partial"))
    assert content(cache.put(KEY, writer(b"graph"))) == b"graph"


def test_no_room_for_temporary_files_is_an_error_with_help(cache: GraphCache) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OperationalError, match="No space left on device") as caught:
        cache.put(KEY, full)
    assert "TMPDIR" in str(caught.value.help)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("T2TDEPLOY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "t2tdeploy" / "graphs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "t2tdeploy" / "graphs"
    monkeypatch.setenv("T2TDEPLOY_CACHE", str(tmp_path / "own"))
    assert default_directory() == tmp_path / "own" / "graphs"
