"""Engines that train in processes of their own, one at a time: they share neither malloc nor threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from training_batches import VOCABULARY, Batch

WORKER = Path(__file__).parent / "training_worker.py"


@dataclass(frozen=True)
class Job:
    """What a worker trains.

    Attributes:
        engine: "ort" or "torch".
        keep_memory: as `t2tdeploy train` sets malloc; else malloc's own settings.
        hparams: overrides, as of `t2tdeploy train --hparams`.
        batches: what `save_batches` wrote.
        device: "cpu" or "cuda".
    """

    engine: str
    keep_memory: bool
    hparams_set: str
    hparams: str
    batches: str
    threads: int
    vocabulary: int = VOCABULARY
    device: str = "cpu"


class WorkerError(Exception):
    """A worker could not do it; the message is its reason, in a line."""


def save_batches(path: Path, groups: Mapping[str, Sequence[Batch]]) -> None:
    """Writes batches for workers, by the name of their group."""
    arrays: dict[str, Any] = {
        f"{group}/{number}/{feature}": array
        for group, batches in groups.items()
        for number, batch in enumerate(batches)
        for feature, array in batch.items()
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)


class Worker:
    """A process with an engine; it ends with the `with` block.

    Args:
        environment: variables set beside this process's own.
        seconds: after so many it is killed, unless the limit is lifted.
    """

    def __init__(self, job: Job, *, environment: Mapping[str, str] | None = None, seconds: float = 3600.0) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as this object
        self._overdue = False
        self._seconds = seconds
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # torch.compile starts processes, which shall end with it
        )
        self._timer = threading.Timer(seconds, self._kill_overdue)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._kill()
        self._process.wait()
        self._errors.close()

    def wait_until_ready(self) -> dict[str, float]:
        """Returns engine_s, seconds until it could train.

        Engine ort before that had graph_s until its training graph was in the cache; graph_built is 0 if it was there.
        """
        return self._answer()

    def lift_limit(self) -> None:
        """It was in time."""
        self._timer.cancel()

    def first_pass(self, group: str) -> float:
        """A pass over a group that nobody has trained on; returns its seconds, those of compiling included."""
        begun = time.perf_counter()
        self._ask("run", group)
        return time.perf_counter() - begun

    def run(self, group: str) -> list[float]:
        """A pass over a group; returns the seconds of each batch's step."""
        seconds: list[float] = self._ask("run", group)["seconds"]
        return seconds

    def mark(self) -> None:
        """Memory and idleness are measured from here on."""
        self._ask("mark")

    def memory(self) -> dict[str, Any]:
        """peak_bytes, peak_since_mark, device_bytes, idle_cpu_share (CPU time per second while others computed)."""
        return self._ask("memory")

    def _ask(self, *words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(*words, file=self._process.stdin, flush=True)
        except OSError:
            raise WorkerError(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": self._last_words()}
        if "failed" in answer:
            raise WorkerError(answer["failed"])
        return answer

    def _last_words(self) -> str:
        if self._overdue:
            return f"not done within {self._seconds:.0f} s"
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with status {status}: {lines[-1].strip()[:400] if lines else 'it wrote nothing'}"

    def _kill_overdue(self) -> None:
        self._overdue = True
        self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
