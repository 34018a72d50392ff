"""A bundle that is loaded and answers: its translator or classifier, its queue, and the requests that hold on to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from t2tdeploy.bundle import Bundle
from t2tdeploy.classifier import Classifier
from t2tdeploy.errors import RequestError
from t2tdeploy.runtime import available_cpus
from t2tdeploy.serving.bundle_source import Found, label_of
from t2tdeploy.serving.call_record import current_record
from t2tdeploy.serving.compute_slots import ComputeSlots
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.scheduler import Scheduler
from t2tdeploy.serving.work import Answerer, ClassificationWork, TranslationWork
from t2tdeploy.translator import Translator


@dataclass(frozen=True)
class LoadedModel:
    """What a bundle became.

    Args:
        work: what is done with it.
        workers: its batches that run at once.
        on_cpus: they need the CPUs, rather than a GPU.
    """

    answerer: Answerer
    work: TranslationWork | ClassificationWork
    workers: int
    on_cpus: bool


def load_model(bundle: Bundle, options: ServerOptions) -> LoadedModel:
    """Loads a bundle's graph and runs it once. Takes seconds: call it in a thread.

    Raises:
        UnknownNameError: the bundle has no such variant.
        CorruptFileError: the graph or a vocabulary cannot be loaded.
        UnreadableError: one of them cannot be read.
        OperationalError: onnxruntime cannot run it here.
    """
    on_cpus = bundle.variant(options.variant).target == "cpu"
    if bundle.manifest.task != "translate":
        classifier = Classifier(bundle, variant=options.variant, threads=options.threads, spin_us=options.spin_us)
        classifier.warm_up()
        return LoadedModel(classifier, ClassificationWork(classifier), options.workers or 1, on_cpus)
    translator = Translator(
        bundle,
        variant=options.variant,
        threads=options.threads,
        spin_us=options.spin_us,
        max_beam_size=options.max_beam_size,
        max_extra_length=options.max_extra_length,
    )
    translator.warm_up()
    workers = options.batches_at_once if on_cpus else options.workers or 1
    beside = None
    if on_cpus and options.threads is None and workers > 1:
        # The threads of a session are shared by its runs, which each bring one of their own.
        beside = translator.with_threads(max(1, available_cpus() - workers + 1))
        beside.warm_up()
    return LoadedModel(translator, TranslationWork(translator, beside), workers, on_cpus)


class ServedModel:
    """One version of a model, on the running event loop; it accepts requests at once.

    Attributes:
        name: what requests call it.
        number: its version.
        answerer: what its bundle became.

    Args:
        slots: shared by all models of the process on the same kind of device.
    """

    def __init__(self, found: Found, loaded: LoadedModel, options: ServerOptions, slots: ComputeSlots) -> None:
        self.name, self.number, self.fingerprint = found.name, found.number, found.fingerprint
        self.answerer = loaded.answerer
        self.scheduler: Scheduler[Any, Any, Any] = Scheduler(
            loaded.work, options.batch_limits(), workers=loaded.workers, slots=slots
        )
        self.scheduler.start()
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def bundle(self) -> Bundle:
        """What it was loaded from."""
        return self.answerer.bundle

    @property
    def translator(self) -> Translator:
        """What translates.

        Raises:
            RequestError: the model does something else.
        """
        if not isinstance(self.answerer, Translator):
            task = self.bundle.manifest.task
            raise RequestError("model", f"the task of '{self.name}' is '{task}', not 'translate': ask it to classify")
        return self.answerer

    @property
    def classifier(self) -> Classifier:
        """What classifies or regresses.

        Raises:
            RequestError: the model translates.
        """
        if not isinstance(self.answerer, Classifier):
            raise RequestError("model", f"the task of '{self.name}' is 'translate': ask it to translate")
        return self.answerer

    @property
    def label(self) -> str:
        """Name and number, e.g. "ende:2"."""
        return label_of(self.name, self.number)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Within it the model goes on to answer the current call, even if another takes its place."""
        if record := current_record():
            record.model, record.version = self.name, str(self.number)
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
