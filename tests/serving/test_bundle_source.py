import errno
import os
import shutil
from pathlib import Path

import pytest

from t2tdeploy.bundle import MANIFEST, write_bundle
from t2tdeploy.errors import InputError, UnreadableError, UserError
from t2tdeploy.serving.bundle_source import BundleFolders, Fingerprint, RepositoryFolder, fingerprint_of
from tests.serving.repositories import fails, when_listed
from tests.serving.toy_bundle import toy_files, toy_manifest, write_toy_bundle
from tests.unprivileged import as_nobody, folder_for_all

PASSING = [errno.EIO, errno.ESTALE, errno.EMFILE]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    write_toy_bundle(root / "ende" / "2")
    shutil.copytree(root / "ende" / "2", root / "ende" / "10")
    shutil.copytree(root / "ende" / "2", root / "deen")
    for other in ("ende/0", "ende/v3", "ende/.3.part", ".git/1", "..data/1", "lost+found", "empty"):
        (root / other).mkdir(parents=True)
    (root / "README.md").write_text("not a model")
    return root


def test_a_repository_holds_models_and_numbered_versions(repository: Path) -> None:
    found = RepositoryFolder(repository).scan()
    assert [(one.name, one.number) for one in found] == [("deen", 1), ("ende", 2), ("ende", 10)]
    assert found[0].directory == repository / "deen"


def test_versions_that_would_be_models_are_warned_about(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    RepositoryFolder(repository)
    shutil.copytree(repository / "ende" / "2", repository / "2" / "2")  # a model that is called so
    RepositoryFolder(repository)
    shutil.rmtree(repository / "2")
    assert not caplog.records
    shutil.rmtree(repository / "ende" / "10")
    found = RepositoryFolder(repository / "ende").scan()
    assert [(one.name, one.number) for one in found] == [("2", 1)]
    assert f"holds bundles named 2: if they are versions of one model, give --repository {repository}" in caplog.text


def test_a_changed_file_changes_the_fingerprint_and_nothing_else_does(repository: Path) -> None:
    source = RepositoryFolder(repository)
    before = source.scan()
    assert source.scan() == before
    (repository / "ende" / "10" / "model.onnx").write_bytes(b"other")
    changed = [one for one, other in zip(source.scan(), before, strict=True) if one != other]
    assert [(one.name, one.number) for one in changed] == [("ende", 10)]


def test_bundles_given_one_by_one_have_the_names_in_their_manifests(repository: Path) -> None:
    source = BundleFolders([repository / "deen"])
    (found,) = source.scan()
    assert (found.name, found.number) == ("toy", 1)
    shutil.rmtree(repository / "deen")
    assert source.scan() == []
    with pytest.raises(UserError, match="are both named 'toy'") as caught:
        BundleFolders([repository / "ende" / "2", repository / "ende" / "10"])
    assert "t2tdeploy export --name" in str(caught.value.help)


def test_what_is_no_repository_is_said(repository: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        RepositoryFolder(repository / "nowhere")
    with pytest.raises(InputError, match="is a bundle, not a repository"):
        RepositoryFolder(repository / "deen")
    with pytest.raises(InputError, match="is not a bundle"):
        BundleFolders([repository])


def test_what_cannot_be_looked_at_hides_nothing_else() -> None:
    """A link into a folder that is closed, as of a model and of one of its versions."""
    with folder_for_all() as root:
        repository, closed = root / "models", root / "closed"
        for folder in (repository / "ende" / "1", closed / "bundle"):
            folder.mkdir(parents=True)
            (folder / MANIFEST).touch()
        (repository / "ende" / "2").symlink_to(closed / "bundle")
        (repository / "deen").symlink_to(closed / "bundle")
        (repository / "gone").symlink_to(root / "nowhere")
        (repository / "notes").touch()
        closed.chmod(0)
        with as_nobody():
            found = RepositoryFolder(repository).scan()
        closed.chmod(0o755)
    assert [(one.label, one.error is None) for one in found] == [("deen", False), ("ende:1", True), ("ende:2", True)]
    assert [bool(one.fingerprint) for one in found] == [False, True, False]


def test_a_bundle_that_cannot_be_looked_at_is_not_gone() -> None:
    with folder_for_all() as root:
        write_toy_bundle(root / "place" / "one")
        source = BundleFolders([root / "place" / "one"])
        assert [bool(one.fingerprint) for one in source.scan()] == [True]
        (root / "place").chmod(0)
        with as_nobody():
            assert [bool(one.fingerprint) for one in source.scan()] == [False]
        (root / "place").chmod(0o755)


@pytest.mark.parametrize(("gone", "left"), [("ende/2", ["deen:1", "ende:10"]), ("deen", ["ende:2", "ende:10"])])
def test_what_goes_while_it_is_looked_at_hides_nothing_else(repository: Path, gone: str, left: list[str]) -> None:
    """A version, and a model without versions."""
    folder = repository / gone
    with when_listed(folder, lambda: folder.rename(folder.parent / ".gone")):
        found = RepositoryFolder(repository).scan()
    assert not folder.exists()
    assert [one.label for one in found] == left
    assert all(one.fingerprint and one.error is None for one in found)


def test_a_folder_that_goes_from_a_bundle_while_it_is_looked_at_is_left_out(repository: Path) -> None:
    before = fingerprint_of(repository / "deen")
    (repository / "deen" / "more").mkdir()
    (repository / "deen" / "more" / "file").touch()
    assert len(fingerprint_of(repository / "deen")) == len(before) + 1
    with when_listed(repository / "deen" / "more", lambda: shutil.rmtree(repository / "deen" / "more")):
        assert fingerprint_of(repository / "deen") == before


def test_what_may_not_be_listed_is_seen_to_change() -> None:
    """As far as its manifest or its folder does: both when a bundle takes the place of another."""
    with folder_for_all() as root:
        version = write_toy_bundle(root / "ende" / "1").directory
        version.chmod(0o711)

        def look() -> Fingerprint:
            with as_nobody():
                (found,) = RepositoryFolder(root).scan()
            assert found.error is None
            return found.fingerprint

        before = look()
        assert before == look() != ()
        (version / MANIFEST).write_text((version / MANIFEST).read_text() + " ")
        after = look()
        assert after != before
        (version / "shared.vocab").unlink()
        assert look() != after


@pytest.mark.parametrize(
    "number", [*PASSING, errno.EACCES, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG], ids=errno.errorcode.get
)
def test_a_version_with_a_file_that_cannot_be_looked_at_for_now_has_not_changed(
    repository: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nothing is known of it. Others are left out: they vanish, are not allowed, or lead nowhere."""
    stranger, look = repository / "ende" / "2" / MANIFEST, Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path == stranger:
            raise OSError(number, os.strerror(number), str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    found = {one.label: one for one in RepositoryFolder(repository).scan()}
    assert found["deen:1"].error is None
    assert found["ende:10"].error is None
    wanted = f"{stranger} cannot be read: {os.strerror(number)}" if number in PASSING else None
    assert (found["ende:2"].error and found["ende:2"].error.message) == wanted


@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
def test_a_version_that_cannot_be_listed_hides_no_other(repository: Path, number: int) -> None:
    for folder, label in ((repository / "ende" / "2", "ende:2"), (repository / "deen", "deen:1")):
        with when_listed(folder, fails(number)):
            found = RepositoryFolder(repository).scan()
        assert [one.label for one in found] == ["deen:1", "ende:2", "ende:10"]
        (failed,) = [one for one in found if one.error]
        assert (failed.label, failed.fingerprint) == (label, ())
        assert str(failed.error) == f"{folder} cannot be read: {os.strerror(number)}"


@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
def test_of_bundles_given_one_by_one_one_that_cannot_be_listed_hides_no_other(tmp_path: Path, number: int) -> None:
    folders = [write_bundle(tmp_path / name, toy_manifest(name), toy_files()).directory for name in ("a", "b")]
    source = BundleFolders(folders)
    with when_listed(folders[0], fails(number)):
        failed, other = source.scan()
    assert (failed.label, other.label, other.error) == ("a:1", "b:1", None)
    assert str(failed.error) == f"{folders[0]} cannot be read: {os.strerror(number)}"
    with when_listed(folders[0], lambda: folders[0].rename(tmp_path / "gone")):
        assert source.scan() == [other]


def test_the_lost_and_found_of_a_disk_and_hidden_folders_are_no_models() -> None:
    """Both belong to others and are often closed; any other closed folder is said to be so."""
    with folder_for_all() as root:
        for name in ("lost+found", ".snapshots", "ende"):
            (root / name).mkdir()
            (root / name).chmod(0)
        with as_nobody():
            (found,) = RepositoryFolder(root).scan()
        for closed in root.iterdir():
            closed.chmod(0o755)
    assert str(found.error).endswith("/ende cannot be read: Permission denied")


@pytest.mark.parametrize("mode", [0o000, 0o711], ids=["closed", "not to be listed"])
def test_a_repository_that_may_not_be_looked_into_is_unreadable(mode: int) -> None:
    with folder_for_all() as place:
        root = place / "models"
        write_toy_bundle(root / "ende" / "1")
        root.chmod(mode)
        with as_nobody(), pytest.raises(UnreadableError, match="models cannot be read: Permission denied") as caught:
            RepositoryFolder(root).scan()
        root.chmod(0o755)
        assert [one.label for one in RepositoryFolder(root).scan()] == ["ende:1"]
    assert "let the user" in str(caught.value.help)


def test_a_repository_that_goes_is_unreadable(repository: Path) -> None:
    """Nothing is known of its models: its disk may be away for a moment."""
    source = RepositoryFolder(repository)
    repository.rename(repository.parent / "away")
    with pytest.raises(UnreadableError, match="models cannot be read: No such file or directory"):
        source.scan()
