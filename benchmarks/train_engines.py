"""Speed and memory of a training step: engine ort beside torch eager and torch.compile, on Multi30k's lengths.

    python benchmarks/train_engines.py            # all sizes, an hour; writes results/train_engines.json and .png
    python benchmarks/train_engines.py --sizes base --rounds 3    # one of them; the others' results stay
    python benchmarks/train_engines.py --name train_engines_amx   # beside the results of another machine
    python benchmarks/train_engines.py --quick    # tiny, within three minutes, writes nothing
    python benchmarks/train_engines.py --memory   # engine ort over 2000 steps of any shape, see train_memory.py

A step is forward, backward, clipping and update: `Engine.step`, as training calls it. Each variant has a process of its
own; all live at the same time and compute in turns, a pass over the same batches each (a rotation of shapes, as in
training), so that whatever else the machine does hits all alike. A ratio of speeds is the median over the rounds of the
ratio within a round. Peak memory is that of the steady state: of the passes that are measured.

    ort             engine ort, as `t2tdeploy train` runs it: freed memory is kept (training/allocator.py)
    torch           torch eager with malloc's own settings, as people run it
    torch_tuned     torch eager as `t2tdeploy train --engine torch` runs it: freed memory is kept
    compile         torch.compile with malloc's own settings
    compile_tuned   torch.compile with freed memory kept

The last line is one JSON object: size -> how many times as fast ort is as the others, and memory_ratio, the peak memory
of ort over that of torch. null: a variant could not run; standard error says why.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import RESULTS, machine, publish, versions
from train_engines_plot import plot
from train_memory import measure_memory
from training_batches import VOCABULARY, Rotation, multi30k_lengths, rotation
from training_steps import Job, Worker, save_batches
from worker_process import WorkerError

from t2tdeploy.runtime import available_cpus

VARIANTS = {  # engine, compile, keep_memory
    "ort": ("ort", False, True),
    "torch": ("torch", False, False),
    "torch_tuned": ("torch", False, True),
    "compile": ("torch", True, False),
    "compile_tuned": ("torch", True, True),
}
SIZES = {"tiny": (12, 8), "small": (8, 8), "base": (5, 6)}  # rounds, batches of a pass
QUICK_SIZE, QUICK_ROUNDS, QUICK_BATCHES = "tiny", 4, 3
QUICK_VARIANTS = ("ort", "torch", "torch_tuned", "compile")
QUICK_SECONDS, QUICK_ROUNDS_SECONDS = 140.0, 20.0  # what is not ready by then is left out; when the last round begins
BATCH_SIZE, CLIP = 4096, 1.0
GROUP = "rotation"
PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy")


@dataclass
class Measured:
    """What is known of one variant.

    Attributes:
        cold, cached: seconds to begin, without and with what an earlier process left in the caches: graph_s, engine_s
            and first_pass_s; cold also the peak memory of that.
        passes: seconds of each step of each round.
        memory: what `Worker.memory` says after the last round.
        failed: why it could not run.
    """

    cold: dict[str, float] = field(default_factory=dict)
    cached: dict[str, float] = field(default_factory=dict)
    passes: list[list[float]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None

    def record(self, tokens: int) -> dict[str, Any]:
        """For the results; `tokens` are those of a pass."""
        if self.failed is not None:
            return {"failed": self.failed}
        steps = len(self.passes[0])
        lower, median, upper = quartiles([sum(seconds) for seconds in self.passes])
        return {
            "ms_per_step": {
                "median": round(median / steps * 1000, 2),
                "quartiles": [round(seconds / steps * 1000, 2) for seconds in (lower, upper)],
            },
            "ms_by_batch": [round(statistics.median(of) * 1000, 2) for of in zip(*self.passes, strict=True)],
            "tokens_per_second": round(tokens / median),
            "steps": steps * len(self.passes),
            "peak_mib": round(self.memory["peak_bytes"] / 2**20),
            "peak_of": "the measured passes" if self.memory["peak_since_mark"] else "the whole process",
            "idle_cpu_share": round(self.memory["idle_cpu_share"], 4),
            "cold": {name: round(value, 2) for name, value in self.cold.items()},
            "cached": {name: round(value, 2) for name, value in self.cached.items()},
        }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, statistics.median(values), upper


def speed_ratio(ort: Measured, other: Measured) -> tuple[float, float, float]:
    """How many times as fast ort is: quartiles over the rounds."""
    return quartiles([sum(theirs) / sum(ours) for ours, theirs in zip(ort.passes, other.passes, strict=True)])


def ratios_of(measured: dict[str, Measured]) -> tuple[dict[str, float | None], dict[str, list[float]]]:
    """Of one size: the ratios that the last line prints, and the quartiles of those of speeds."""
    ort = measured["ort"]
    found: dict[str, float | None] = {}
    spread: dict[str, list[float]] = {}
    for name, other in measured.items():
        if name == "ort":
            continue
        key = f"ort_over_{name}"
        found[key] = None
        if ort.failed is None and other.failed is None:
            lower, median, upper = speed_ratio(ort, other)
            found[key], spread[key] = round(median, 3), [round(lower, 3), round(upper, 3)]
        if name == "torch":
            known = found[key] is not None
            found["memory_ratio"] = round(ort.memory["peak_bytes"] / other.memory["peak_bytes"], 3) if known else None
    return found, spread


class Benchmark:
    """One size of the Transformer.

    Args:
        names: of the variants.
        quick: all begin at the same time, from the caches that the user has.
        deadline: on time.monotonic(); those that are not ready then are left out.
    """

    def __init__(
        self, size: str, names: Sequence[str], batches: Rotation, *, threads: int, quick: bool, deadline: float
    ) -> None:
        self._size, self._batches, self._threads = size, batches, threads
        self._quick, self._deadline = quick, deadline
        self.measured = {name: Measured() for name in names}

    def run(self, rounds: int) -> None:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            file = Path(folder) / "batches.npz"
            save_batches(file, {GROUP: self._batches.batches})
            jobs = {name: self._job(name, file) for name in self.measured}
            caches = {"T2TDEPLOY_CACHE": f"{folder}/graphs", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
            environment = {} if self._quick else caches
            if not self._quick:
                for name in ("ort", "compile"):
                    if name in jobs:
                        self._begin_cold(name, jobs[name], environment)
            with ThreadPoolExecutor(len(jobs) if self._quick else 1) as pool:
                begin = [pool.submit(self._begin, name, job, environment, stack) for name, job in jobs.items()]
                started = {name: future.result() for name, future in zip(jobs, begin, strict=True)}
            workers = {name: worker for name, worker in started.items() if worker is not None}
            self._measure(workers, rounds)

    def _job(self, name: str, batches: Path) -> Job:
        engine, compiled, keep = VARIANTS[name]
        hparams = f"batch_size={BATCH_SIZE},clip_grad_norm={CLIP},compile={str(compiled).lower()}"
        return Job(engine, keep, f"transformer_{self._size}", hparams, str(batches), self._threads)

    def _begin_cold(self, name: str, job: Job, environment: dict[str, str]) -> None:
        """Measures a first start, which fills the caches, in a process that then ends."""
        say(f"{self._size} {name}: first start")
        measured = self.measured[name]
        try:
            with Worker(job, environment=environment) as worker:
                measured.cold = {**worker.wait_until_ready(), "first_pass_s": worker.first_pass(GROUP)}
                measured.cold["peak_mib"] = worker.memory()["peak_bytes"] / 2**20
        except WorkerError as error:
            self._fail(name, error)

    def _begin(self, name: str, job: Job, environment: dict[str, str], stack: ExitStack) -> Worker | None:
        """A worker that has warmed up; None if it cannot."""
        measured = self.measured[name]
        if measured.failed is not None:
            return None
        say(f"{self._size} {name}: start")
        worker = stack.enter_context(
            Worker(job, environment=environment, seconds=max(1.0, self._deadline - time.monotonic()))
        )
        try:
            measured.cached = {**worker.wait_until_ready(), "first_pass_s": worker.first_pass(GROUP)}
            worker.run(GROUP)
            worker.mark()
        except WorkerError as error:
            self._fail(name, error)
            return None
        worker.lift_limit()
        if measured.cold and measured.cached.get("graph_built"):
            say("the graph was not in the cache: was t2tdeploy edited meanwhile? Then `cached` means nothing")
        return worker

    def _measure(self, workers: dict[str, Worker], rounds: int) -> None:
        """Passes in turns; each round begins with another variant."""
        for number in range(rounds):
            if self._quick and number > 0 and time.monotonic() > self._deadline + QUICK_ROUNDS_SECONDS:
                break
            say(f"{self._size}: round {number + 1} of {rounds}")
            names = list(workers)
            shift = number % max(1, len(names))
            for name in names[shift:] + names[:shift]:
                self._try(name, workers, lambda name: self.measured[name].passes.append(workers[name].run(GROUP)))
        for name in list(workers):
            self._try(name, workers, lambda name: self.measured[name].memory.update(workers[name].memory()))

    def _try(self, name: str, workers: dict[str, Worker], action: Any) -> None:
        try:
            action(name)
        except WorkerError as error:
            del workers[name]
            self._fail(name, error)

    def _fail(self, name: str, error: WorkerError) -> None:
        self.measured[name].failed = str(error)
        say(f"{self._size} {name} could not run: {error}")


def earlier_sizes(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call measured on this machine with these versions and settings: sizes can be run one by one.

    Args:
        name: of the results.
    """
    try:
        content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    same = content["machine"] == machine() and content["packages"] == versions(PACKAGES)
    found: dict[str, Any] = content["result"]["sizes"] if same and content["result"]["settings"] == settings else {}
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny alone, few rounds; writes no results")
    parser.add_argument("--memory", action="store_true", help="measure memory over many steps instead")
    parser.add_argument("--steps", type=int, default=2000, help="of --memory")
    parser.add_argument("--sizes", help=f"of {','.join(SIZES)}")
    parser.add_argument("--variants", help=f"of {','.join(VARIANTS)}; ort is always there")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--batches", type=int, help="of a pass")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--data-dir", type=Path, help="of Multi30k [the lengths in multi30k_lengths.json]")
    parser.add_argument("--name", default="train_engines", help="of the results: another machine's stay apart")
    options = parser.parse_args()
    options.sizes = _chosen(parser, options.sizes, SIZES, [QUICK_SIZE] if options.quick else list(SIZES))
    usual = list(QUICK_VARIANTS if options.quick else VARIANTS)
    options.variants = _chosen(parser, options.variants and f"ort,{options.variants}", VARIANTS, usual)
    return options


def _chosen(
    parser: argparse.ArgumentParser, given: str | None, known: dict[str, Any], usual: list[str]
) -> list[str]:  # fmt: skip
    """The words of `given`, in the order of `known`."""
    if given is None:
        return usual
    if strangers := set(given.split(",")) - set(known):
        parser.error(f"{', '.join(sorted(strangers))}: choose from {', '.join(known)}")
    return [name for name in known if name in given.split(",")]


def main() -> None:
    options = arguments()
    if options.memory:
        measure_memory(steps=options.steps, threads=options.threads, batch_size=BATCH_SIZE)
        return
    deadline = time.monotonic() + (QUICK_SECONDS if options.quick else 4 * 3600.0)
    lengths = multi30k_lengths(options.data_dir)
    settings = {"batch_size": BATCH_SIZE, "vocabulary": VOCABULARY, "clip_grad_norm": CLIP, "threads": options.threads}
    last_line: dict[str, Any] = {}
    for size in options.sizes:
        rounds, count = (QUICK_ROUNDS, QUICK_BATCHES) if options.quick else SIZES[size]
        batches = rotation(lengths, batch_size=BATCH_SIZE, count=options.batches or count)
        benchmark = Benchmark(
            size, options.variants, batches, threads=options.threads, quick=options.quick, deadline=deadline
        )
        benchmark.run(options.rounds or rounds)
        found = content_of(benchmark, batches)
        say(json.dumps({size: found}, indent=2, ensure_ascii=False))
        last_line[size] = found["ratios"]
        if not options.quick:  # at once: the next size takes long
            write(options.name, settings, {size: found})
    if options.quick:
        print(json.dumps(last_line))


def content_of(benchmark: Benchmark, batches: Rotation) -> dict[str, Any]:
    """What is written of a size."""
    ratios, spread = ratios_of(benchmark.measured)
    return {
        "shapes": batches.shapes,
        "tokens_of_a_pass": batches.tokens,
        "padding_share": round(batches.padding_share, 4),
        "epoch_padding_share": round(batches.epoch_padding_share, 4),
        "variants": {name: measured.record(batches.tokens) for name, measured in benchmark.measured.items()},
        "ratios": ratios,
        "ratio_quartiles": spread,
    }


def write(name: str, settings: dict[str, Any], measured: dict[str, Any]) -> None:
    """Writes the results, with those of earlier calls, and prints the ratios."""
    sizes = earlier_sizes(name, settings) | measured
    sizes = {size: sizes[size] for size in SIZES if size in sizes}
    ratios = {size: content["ratios"] for size, content in sizes.items()}
    RESULTS.mkdir(exist_ok=True)
    plot(sizes, RESULTS / f"{name}.png")
    publish(name, {"settings": settings, "sizes": sizes}, packages=PACKAGES, last_line=ratios)


if __name__ == "__main__":
    main()
