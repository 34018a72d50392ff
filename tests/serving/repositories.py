"""Repositories of bundles on disk, and who serves them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.serving.bundle_source import BundleSource
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository

Labels = list[str]


def put(content: Path, place: Path) -> None:
    """Copies a bundle, then moves it to its place at once, as a careful operator does."""
    place.parent.mkdir(parents=True, exist_ok=True)
    copied = place.parent / f".{place.name}.part"
    shutil.copytree(content, copied)
    if place.exists():
        place.rename(place.parent / f".{place.name}.old")
    copied.rename(place)
    shutil.rmtree(place.parent / f".{place.name}.old", ignore_errors=True)


def with_repository(
    source: BundleSource,
    work: Callable[[ModelRepository], Awaitable[None]],
    *,
    reporter: Reporter | None = None,
    **options: Any,
) -> None:
    """Starts a repository on an event loop, does the work, closes it."""

    async def run() -> None:
        settings = ServerOptions.create({"threads": 1, **options})
        repository = ModelRepository(source, settings, reporter or SilentReporter())
        await repository.start()
        try:
            await work(repository)
        finally:
            await repository.close()

    asyncio.run(run())


def labels(repository: ModelRepository) -> Labels:
    return [model.label for model in repository.models()]


@contextmanager
def when_listed(folder: Path, happens: Callable[[], object]) -> Iterator[None]:
    """Within it something happens to a folder whenever it is about to be listed."""
    scandir = os.scandir

    def listed(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(path) == folder:
            happens()
        return scandir(path)

    with mock.patch("os.scandir", listed):
        yield


def fails(number: int) -> Callable[[], None]:
    """Fails as the system does with an error of this number."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


class Listening(SilentReporter):
    """Keeps why bundles were reported as broken."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def event(self, name: str, **data: Any) -> None:
        if name == "broken":
            self.broken.append(data["reason"])
