"""One engine in a process of its own, which trains when told to. training_steps.py starts it and reads its answers.

    python benchmarks/training_worker.py JOB

JOB is a `training_steps.Job` as JSON. Standard input has a command per line, standard output one JSON object for each:

    run GROUP   one unmeasured step, then one on each batch of the group
    mark        memory is measured from here on
    memory      how much it was at most
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from worker_process import answers

from t2tdeploy.errors import T2TDeployError
from t2tdeploy.progress import SilentReporter


def resident_bytes(field: str = "VmHWM") -> int:
    """Memory of this process in RAM: the most since `forget_peak`, or with VmRSS the present one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> bool:
    """Lets VmHWM begin anew; False where the system cannot, and the peak stays that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


class Worker:
    """The engine of a job and its batches."""

    def __init__(self, job: dict[str, Any]) -> None:
        import torch

        from t2tdeploy.features import FeatureSpec, Modality
        from t2tdeploy.models.transformer import Transformer
        from t2tdeploy.registry import hparams_sets
        from t2tdeploy.training.allocator import keep_freed_memory
        from t2tdeploy.training.engines import make_engine

        if job["keep_memory"] and not keep_freed_memory():
            raise T2TDeployError("this C library has no mallopt")
        torch.set_num_threads(job["threads"])
        torch.manual_seed(0)
        self._device = torch.device(job["device"])
        self._device_bytes_before = self._device_bytes()
        hparams = hparams_sets.get(job["hparams_set"])().override(job["hparams"])
        names = ("inputs", "targets")
        features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", job["vocabulary"]) for name in names}

        class Padded(Transformer):
            """Of a subclass nobody knows that its layers see each token by itself, until it says so."""

            independent_rows = True

        model = (Padded if job["padded"] else Transformer)(hparams, features)
        self.started = _obtain(model, hparams, self._device) if job["engine"] == "ort" else {}
        begun = time.perf_counter()
        self._engine = make_engine(job["engine"], model, hparams, device=self._device)
        self.started["engine_s"] = time.perf_counter() - begun
        arrays = np.load(job["batches"])
        self._groups: dict[str, list[dict[str, Any]]] = {}
        for key in arrays.files:  # GROUP/NUMBER/FEATURE
            group, number, feature = key.split("/")
            batches = self._groups.setdefault(group, [])
            if int(number) == len(batches):
                batches.append({})
            batches[int(number)][feature] = arrays[key]
        self._marked = False
        self.idle_s = self.idle_cpu_s = 0.0

    def run(self, group: str) -> dict[str, Any]:
        """Seconds of each step. On a GPU a step's number includes the end of the one before; their sum is exact."""
        batches = self._groups[group]
        self._step(batches[-1])  # what the other processes evicted comes back
        self._wait()
        seconds = []
        for number, batch in enumerate(batches):
            begun = time.perf_counter()
            self._step(batch)
            if number == len(batches) - 1:
                self._wait()
            seconds.append(time.perf_counter() - begun)
        return {"seconds": seconds}

    def mark(self) -> dict[str, Any]:
        self._marked = forget_peak()
        self.idle_s = self.idle_cpu_s = 0.0
        return {}

    def memory(self) -> dict[str, Any]:
        """Most resident bytes, and bytes of the GPU that this process holds now: neither engine gives any back."""
        return {
            "peak_bytes": resident_bytes(),
            "peak_since_mark": self._marked,
            "device_bytes": self._device_bytes() - self._device_bytes_before,
            "idle_cpu_share": self.idle_cpu_s / max(self.idle_s, 1e-9),
        }

    def _step(self, batch: dict[str, Any]) -> None:
        self._engine.step([batch], learning_rate=1e-4)

    def _wait(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _device_bytes(self) -> int:
        import torch

        if self._device.type != "cuda":
            return 0
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


def _obtain(model: Any, hparams: Any, device: Any) -> dict[str, float]:
    """Puts the training graph into the cache, from where the engine then takes it, unless it is there."""
    from t2tdeploy.training.graph.obtain import obtain_training_graph
    from t2tdeploy.training.graph.target import Target
    from t2tdeploy.training.ort_engine import require_support

    require_support(hparams, device)
    told = _Told()
    begun = time.perf_counter()
    obtain_training_graph(model, hparams, target=Target(device.type, hparams.precision), reporter=told)
    return {"graph_s": time.perf_counter() - begun, "graph_built": float("training graph" in told.events)}


class _Told(SilentReporter):
    """Remembers the names of the events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, name: str, **fields: Any) -> None:
        self.events.append(name)


def _serve(worker: Worker, answer: Callable[[dict[str, Any]], None]) -> None:
    answer(dict(worker.started))
    while True:
        idle_since, cpu_since = time.perf_counter(), time.process_time()
        line = sys.stdin.readline()
        worker.idle_s += time.perf_counter() - idle_since
        worker.idle_cpu_s += time.process_time() - cpu_since
        match line.split():
            case []:
                return
            case ["run", group]:
                answer(worker.run(group))
            case ["mark"]:
                answer(worker.mark())
            case ["memory"]:
                answer(worker.memory())


def main() -> None:
    stream = answers()

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=stream, flush=True)

    try:
        _serve(Worker(json.loads(sys.argv[1])), answer)
    except T2TDeployError as error:
        answer({"failed": f"{error}" + (f" (help: {error.help})" if error.help else "")})
        sys.exit(1)


if __name__ == "__main__":
    main()
