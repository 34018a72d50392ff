import shutil
from pathlib import Path

import pytest

from t2tdeploy.bundle import MANIFEST
from t2tdeploy.errors import InputError, UserError
from t2tdeploy.serving.bundle_source import BundleFolders, RepositoryFolder
from tests.serving.toy_bundle import write_toy_bundle
from tests.unprivileged import as_nobody, folder_for_all


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    write_toy_bundle(root / "ende" / "2")
    shutil.copytree(root / "ende" / "2", root / "ende" / "10")
    shutil.copytree(root / "ende" / "2", root / "deen")
    for other in ("ende/0", "ende/v3", "ende/.3.part", ".git/1", "empty"):
        (root / other).mkdir(parents=True)
    (root / "README.md").write_text("not a model")
    return root


def test_a_repository_holds_models_and_numbered_versions(repository: Path) -> None:
    found = RepositoryFolder(repository).scan()
    assert [(one.name, one.number) for one in found] == [("deen", 1), ("ende", 2), ("ende", 10)]
    assert found[0].directory == repository / "deen"


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
    with pytest.raises(UserError, match="are both named 'toy'"):
        BundleFolders([repository / "ende" / "2", repository / "ende" / "10"])


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
