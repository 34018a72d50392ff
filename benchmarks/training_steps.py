"""Engines that train in processes of their own, one at a time: they share neither malloc nor threads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from training_batches import VOCABULARY, Batch
from worker_process import WorkerProcess

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
        padded: the graph of engine ort computes padding, too.
    """

    engine: str
    keep_memory: bool
    hparams_set: str
    hparams: str
    batches: str
    threads: int
    vocabulary: int = VOCABULARY
    device: str = "cpu"
    padded: bool = False


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


class Worker(WorkerProcess):
    """A process with an engine; see `WorkerProcess`."""

    def __init__(self, job: Job, *, environment: Mapping[str, str] | None = None, seconds: float = 3600.0) -> None:
        super().__init__(WORKER, asdict(job), environment=environment, seconds=seconds)

    def wait_until_ready(self) -> dict[str, float]:
        """Returns engine_s, seconds until it could train.

        Engine ort before that had graph_s until its training graph was in the cache; graph_built is 0 if it was there.
        """
        return super().wait_until_ready()

    def first_pass(self, group: str) -> float:
        """A pass over a group that nobody has trained on; returns its seconds, those of compiling included."""
        begun = time.perf_counter()
        self.ask("run", group)
        return time.perf_counter() - begun

    def run(self, group: str) -> list[float]:
        """A pass over a group; returns the seconds of each batch's step."""
        seconds: list[float] = self.ask("run", group)["seconds"]
        return seconds

    def mark(self) -> None:
        """Memory and idleness are measured from here on."""
        self.ask("mark")

    def memory(self) -> dict[str, Any]:
        """peak_bytes, peak_since_mark, device_bytes, idle_cpu_share (CPU time per second while others computed)."""
        return self.ask("memory")
