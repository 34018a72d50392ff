"""Everything that starting a server does, but for the ports: what would be served, and what could not be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from t2tdeploy.progress import Reporter
from t2tdeploy.serving.bundle_source import BundleSource
from t2tdeploy.serving.operations import Operations
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository


@dataclass(frozen=True)
class Rehearsed:
    """A version of a model.

    Args:
        content: id of the bundle's content; empty: it could not be read.
        variant: form of its graph that would run; empty likewise.
        fault: why it would not be served; empty: it would.
    """

    name: str
    number: int
    content: str
    variant: str
    fault: str


def rehearse(source: BundleSource, options: ServerOptions, reporter: Reporter) -> list[Rehearsed]:
    """Reads certificates and tokens, checks every bundle that would be served against its checksums, loads it and runs
    it once.

    Raises:
        InputError, CorruptFileError, UnreadableError, UnknownNameError: a server would not start.
    """
    Operations(options)
    return asyncio.run(_rehearse(source, options, reporter))


async def _rehearse(source: BundleSource, options: ServerOptions, reporter: Reporter) -> list[Rehearsed]:
    repository = ModelRepository(source, options, reporter)
    try:
        await repository.start()
        return [
            Rehearsed(
                entry.name,
                entry.number,
                entry.model.bundle.version if entry.model else "",
                (options.variant or entry.model.bundle.manifest.default_variant) if entry.model else "",
                entry.reason,
            )
            for entry in repository.entries()
        ]
    finally:
        await repository.close()
