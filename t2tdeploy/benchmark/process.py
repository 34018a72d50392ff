"""One variant of a bundle in a process of its own, so that its memory and its threads are its own."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from t2tdeploy.bundle import load_bundle
from t2tdeploy.errors import OperationalError, T2TDeployError
from t2tdeploy.machine import peak_resident_bytes, resident_bytes
from t2tdeploy.sentences import Sentence
from t2tdeploy.translator import TranslateOptions, Translator


@dataclass(frozen=True)
class Job:
    """What a process loads and how it decodes."""

    bundle: Path
    variant: str
    threads: int
    options: TranslateOptions

    def __str__(self) -> str:
        return f"{self.variant} with {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Loaded:
    """A process that is ready.

    Args:
        load_seconds: from the file to a session that can search.
        resident_bytes: of the whole process, after it.
    """

    load_seconds: float
    resident_bytes: int


@dataclass(frozen=True)
class Timed:
    """One batch: how long the answer took, and how many tokens its best hypotheses have, EOS included."""

    seconds: float
    tokens: int


class VariantProcess:
    """The process of a job; it ends with the `with` block, at the latest with this process.

    Ctrl-C reaches only this process, which then ends the other.
    """

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")  # a forked child of a process with threads can hang
        self._job = job
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, job), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what a child starts with
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def loaded(self) -> Loaded:
        """Waits until it can search.

        Raises:
            T2TDeployError: as `Translator` raises them.
            OperationalError: the process ended.
        """
        found: Loaded = self._answer()
        return found

    def run(self, batches: Sequence[Sequence[Sentence]]) -> list[Timed]:
        """Translates the batches, one after the other.

        Raises:
            T2TDeployError: as `Translator` raises them.
            OperationalError: the process ended.
        """
        found: list[Timed] = self._ask(batches)
        return found

    def peak_bytes(self) -> int:
        """The most memory that the process has had in RAM."""
        found: int = self._ask(None)
        return found

    def _ask(self, message: Any) -> Any:
        try:
            self._pipe.send(message)
        except OSError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise self._ended() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ended(self) -> OperationalError:
        self._process.join()
        status = self._process.exitcode
        return OperationalError(
            f"the process of {self._job} ended with status {status}",
            help="memory may have run out: try smaller --batch-sizes" if status == -signal.SIGKILL else None,
        )


def _work(pipe: Connection, job: Job) -> None:
    """In the process: answers until nobody asks any more."""
    try:
        bundle = load_bundle(job.bundle)
        begun = time.perf_counter()
        translator = Translator(bundle, variant=job.variant, threads=job.threads)
        seconds = time.perf_counter() - begun
        key = translator.search_key(job.options)
        pipe.send(Loaded(seconds, resident_bytes()))
        while True:
            batches = pipe.recv()
            if batches is None:
                pipe.send(peak_resident_bytes())
                continue
            found = []
            for batch in batches:
                begun = time.perf_counter()
                answers = translator.search(batch, key)
                found.append(Timed(time.perf_counter() - begun, sum(answer[0].tokens for answer in answers)))
            pipe.send(found)
    except (EOFError, OSError):
        return
    except T2TDeployError as error:
        pipe.send(error)
    except Exception as error:  # whatever a library raises: this process has no terminal to say it on
        pipe.send(OperationalError(f"{job}: {type(error).__name__}: {error}"))
