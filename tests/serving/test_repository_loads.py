"""Loads that are asked for, by clients without patience and of a repository that closes."""

import asyncio
import threading
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.bundle_source import RepositoryFolder
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.scheduler import UnavailableError
from t2tdeploy.serving.served_model import LoadedModel, load_model
from tests.serving.repositories import labels, with_repository
from tests.serving.toy_bundle import write_toy_bundle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with version 2 of the model "ende"."""
    write_toy_bundle(tmp_path / "models" / "ende" / "2")
    return tmp_path / "models"


def test_a_load_that_nobody_waits_for_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who tries again finds what was loaded, however short each wait is."""
    go, begun, real = threading.Event(), [], load_model

    def load(bundle: Bundle, options: ServerOptions) -> LoadedModel:
        begun.append(bundle.directory.name)
        assert go.wait(20)
        return real(bundle, options)

    async def work(repository: ModelRepository) -> None:
        await repository.unload("ende")
        monkeypatch.setattr("t2tdeploy.serving.repository.load_model", load)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await repository.load("ende")
            assert {(one.name, one.state) for one in repository.entries()} >= {("ende", "LOADING")}
            with pytest.raises(UnavailableError):
                repository.find("ende")
        go.set()
        await repository.load("ende")
        assert labels(repository) == ["ende:2"]
        assert begun == ["2"]

    with_repository(RepositoryFolder(root), work)


def test_loads_end_with_the_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, real = threading.Event(), load_model

    def load(bundle: Bundle, options: ServerOptions) -> LoadedModel:
        assert go.wait(20)
        return real(bundle, options)

    async def work(repository: ModelRepository) -> None:
        await repository.unload("ende")
        monkeypatch.setattr("t2tdeploy.serving.repository.load_model", load)
        first = asyncio.create_task(repository.load("ende"))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(repository.load("ende"))
        await asyncio.sleep(0.05)
        try:
            async with asyncio.timeout(5):  # a model that is being loaded, in a thread, is not waited for
                await repository.close()
            for asked in (first, second):
                with pytest.raises(UnavailableError, match="the server is stopping"):
                    await asked
        finally:
            go.set()
        assert repository.models() == []

    with_repository(RepositoryFolder(root), work)
