"""A bundle that is loaded and answers: its translator, its queue, and the requests that hold on to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.bundle_source import Found
from t2tdeploy.serving.compute_slots import ComputeSlots
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.scheduler import Scheduler
from t2tdeploy.translator import Translator


def load_translator(bundle: Bundle, options: ServerOptions) -> Translator:
    """Loads a bundle's graph and runs it once. Takes seconds: call it in a thread.

    Raises:
        UnknownNameError: the bundle has no such variant.
        CorruptFileError: the graph or a vocabulary cannot be loaded.
        OperationalError: onnxruntime cannot run it here.
    """
    translator = Translator(
        bundle,
        variant=options.variant,
        threads=options.threads,
        max_beam_size=options.max_beam_size,
        max_extra_length=options.max_extra_length,
    )
    translator.warm_up()
    return translator


class ServedModel:
    """One version of a model, on the running event loop; it accepts requests at once.

    Attributes:
        name: what requests call it.
        number: its version.

    Args:
        slots: shared by all models of the process.
    """

    def __init__(self, found: Found, translator: Translator, options: ServerOptions, slots: ComputeSlots) -> None:
        self.name, self.number, self.fingerprint = found.name, found.number, found.fingerprint
        self.translator = translator
        self.scheduler = Scheduler(translator, options.batch_limits(), workers=options.workers, slots=slots)
        self.scheduler.start()
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def bundle(self) -> Bundle:
        """What it was loaded from."""
        return self.translator.bundle

    @property
    def label(self) -> str:
        """Name and number, e.g. "ende:2"."""
        return f"{self.name}:{self.number}"

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Within it the model goes on to answer, even if another takes its place."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._unused.set()

    async def retire(self, grace: float) -> None:
        """Waits up to `grace` seconds for the requests that use it, then stops; what is left gets UnavailableError."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._unused.wait()
        await self.scheduler.stop()
