"""Other names of models: what they stand for, and that the versions they stay at are served."""

import shutil
from pathlib import Path

import pytest

from t2tdeploy.errors import RequestError, SettingsError, UnknownNameError
from t2tdeploy.serving.aliases import Alias
from t2tdeploy.serving.bundle_source import BundleFolders, RepositoryFolder
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.scheduler import UnavailableError
from tests.serving.repositories import labels, put, with_repository
from tests.serving.toy_bundle import write_toy_bundle
from tests.unprivileged import as_nobody, folder_for_all


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("content") / "toy"
    write_toy_bundle(place)
    return place


@pytest.fixture
def root(tmp_path: Path, content: Path) -> Path:
    """A repository with versions 1 and 2 of the model "ende"."""
    for number in (1, 2):
        put(content, tmp_path / "models" / "ende" / str(number))
    return tmp_path / "models"


def test_an_alias_is_a_model_or_a_version_of_it() -> None:
    assert Alias.parse("production=ende") == Alias("production", "ende", None)
    assert Alias.parse("production=ende:12") == Alias("production", "ende", 12)
    options = ServerOptions().override("aliases=[a=ende,b=ende:2]")
    assert options.aliases_by_name()["b"].number == 2


@pytest.mark.parametrize(
    "texts", [["ende"], ["=ende"], ["a="], ["a=ende:"], ["a=ende:x"], ["a=ende:0"], ["a=b", "a=c"]]
)
def test_other_aliases_are_faults_of_the_options(texts: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"name=model|given twice"):
        ServerOptions.create({"aliases": texts})


def test_the_version_an_alias_stays_at_serves_on_when_newer_ones_come(root: Path, content: Path) -> None:
    async def work(repository: ModelRepository) -> None:
        assert labels(repository) == ["ende:1", "ende:2"]
        pinned = repository.find("production")
        for number in (3, 4):
            put(content, root / "ende" / str(number))
            await repository.poll()
            assert labels(repository) == ["ende:1", f"ende:{number}"]
            assert repository.find("production") is pinned
            assert repository.find("ende").label == repository.find("newest").label == f"ende:{number}"
        await repository.unload("ende")
        await repository.load("ende")
        assert labels(repository) == ["ende:1", "ende:4"]

    with_repository(RepositoryFolder(root), work, aliases=["production=ende:1", "newest=ende"])


def test_a_version_served_for_an_alias_alone_is_not_the_newest(root: Path) -> None:
    """Else a canary would be asked by everybody."""

    async def work(repository: ModelRepository) -> None:
        assert labels(repository) == ["ende:1", "ende:2"]
        assert [repository.find(name).label for name in ("ende", "", "canary")] == ["ende:1", "ende:1", "ende:2"]
        assert repository.find("ende", "2").label == "ende:2"

    with_repository(RepositoryFolder(root), work, versions="1", aliases=["canary=ende:2"])


def test_of_a_model_served_for_an_alias_alone_a_version_must_be_named(root: Path) -> None:
    async def work(repository: ModelRepository) -> None:
        assert labels(repository) == [repository.find("a").label] == ["ende:2"]
        with pytest.raises(RequestError, match="version: versions = 7 takes none of ende:2"):
            repository.find("ende")

    with_repository(RepositoryFolder(root), work, versions="7", aliases=["a=ende:2"])


def test_an_alias_of_a_version_that_is_not_there_starts_no_server(root: Path, content: Path) -> None:
    async def nothing(repository: ModelRepository) -> None:
        raise AssertionError("it started")

    with pytest.raises(UnknownNameError, match="version of the alias 'old' 'ende:7'; valid choices: ende:1, ende:2"):
        with_repository(RepositoryFolder(root), nothing, aliases=["new=ende:2", "old=ende:7"])
    with pytest.raises(UnknownNameError, match="version of the alias 'old' 'toy:2'; valid choices: toy:1"):
        with_repository(BundleFolders([content]), nothing, aliases=["old=toy:2"])


def test_of_a_model_that_cannot_be_looked_into_no_version_is_said_to_be_missing(content: Path) -> None:
    async def work(repository: ModelRepository) -> None:
        assert labels(repository) == ["deen:1"]
        assert repository.not_loaded() == {"deen": 0, "ende": 2}  # its folder, and the version
        with pytest.raises(UnavailableError, match="Permission denied"):
            repository.find("a")

    with folder_for_all() as root:
        for label in ("deen", "ende"):
            put(content, root / label / "1")
        (root / "ende").chmod(0o444)
        with as_nobody():
            with_repository(RepositoryFolder(root), work, aliases=["a=ende:7"])


def test_a_version_an_alias_stays_at_counts_as_not_loaded_while_it_does_not_serve(root: Path, content: Path) -> None:
    (root / "ende" / "1" / "manifest.json").write_text("{")

    async def work(repository: ModelRepository) -> None:
        assert labels(repository) == ["ende:2"]
        with pytest.raises(UnavailableError, match=r"ende:1 is not served: .*manifest"):
            repository.find("a")
        assert repository.not_loaded() == {"ende": 1}
        put(content, root / "ende" / "1")
        await repository.poll()
        assert labels(repository) == ["ende:1", "ende:2"]
        assert repository.not_loaded() == {"ende": 0}
        shutil.rmtree(root / "ende" / "1")
        for _ in range(2):
            await repository.poll()
        assert labels(repository) == ["ende:2"]
        assert repository.not_loaded() == {"ende": 1}

    with_repository(RepositoryFolder(root), work, aliases=["a=ende:1"])
