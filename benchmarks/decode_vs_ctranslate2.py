"""Speed, quality and size of our decoding beside CTranslate2's: the same weights, beam 4, measured in turns in one run.

    python benchmarks/decode_vs_ctranslate2.py --run RUN_DIR    # all; writes results/decode_vs_ctranslate2.{json,png}
    python benchmarks/decode_vs_ctranslate2.py                  # without the trained model
    python benchmarks/decode_vs_ctranslate2.py --quick          # base size, int8, batches of 1 and 16: three minutes

base       transformer_base (6 + 6 layers, hidden 512, vocabulary 32000) with random weights. Sources of 25 tokens,
           32 steps of every search: tokens per second, and milliseconds per batch. Transformers' generate and
           Optimum's model for onnxruntime, of the same size with random weights, take turns with them where they are
           installed.
trained    a trained run (--run): BLEU on test; whether float32 hypotheses and scores are CTranslate2's (alpha 0, where
           both searches mean the same); how many tokens int8 leaves as they are; tokens per second. Ours searches by
           its own rule, which goes on until nothing can become better, and with CTranslate2's (early stopping).

Each decoder has a process of its own; all live at the same time and translate in turns. A ratio of speeds is the median
over the rounds of the ratio within a round. Loading is the median of further processes, which find the files in the
page cache. The last line is one JSON object: precision -> batch size -> tokens per second of ours over CTranslate2's in
the same precision, with all threads; and BLEU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, publish
from decode_models import (
    FORCED,
    SOURCE_LENGTH,
    TARGET_LENGTH,
    Files,
    base_hparams,
    base_model,
    forced_groups,
    write_files,
    write_marian,
)
from decode_plot import plot
from decode_trained import agreement, trained_model
from train_engines import quartiles
from worker_process import WorkerError, WorkerProcess

from t2tdeploy.runtime import available_cpus

WORKER = Path(__file__).parent / "decode_worker.py"
OURS, THEIRS = "t2tdeploy", "ctranslate2"
OURS_EARLY = f"{OURS}, early stopping"
PRECISIONS = ("float32", "int8")
LOADS = 5
PACKAGES = ("torch", "onnx", "onnxruntime", "ctranslate2")


@dataclass(frozen=True)
class Job:
    """What a process translates with; see `decode_backends` for backend and model.

    Attributes:
        groups: JSON file, name -> {"batches": …, "length": …}.
        alpha: length penalty where no length is forced.
    """

    backend: str
    model: str
    precision: str
    threads: int
    groups: str
    alpha: float


@dataclass
class Measured:
    """One decoder: seconds and tokens of each batch of each round, by group; seconds of each load."""

    loads: list[float] = field(default_factory=list)
    rounds: dict[str, list[dict[str, list[float]]]] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None

    def rates(self, group: str) -> list[float]:
        """Target tokens per second of each round."""
        return [sum(one["tokens"]) / sum(one["seconds"]) for one in self.rounds.get(group, [])]

    def record(self) -> dict[str, Any]:
        """For the results."""
        if self.failed is not None:
            return {"failed": self.failed}
        return {
            "load_s": round(float(np.median(self.loads)), 3),
            "peak_mib": round(self.memory["peak_bytes"] / 2**20),
            "groups": {group: self._speed(group) for group in self.rounds},
        }

    def _speed(self, group: str) -> dict[str, Any]:
        lower, median, upper = quartiles(self.rates(group))
        latencies = [seconds * 1000 for one in self.rounds[group] for seconds in one["seconds"]]
        return {
            "tokens_per_second": {"median": round(median, 1), "quartiles": [round(lower, 1), round(upper, 1)]},
            "ms_per_batch": {
                "p50": round(float(np.percentile(latencies, 50)), 2),
                "p99": round(float(np.percentile(latencies, 99)), 2),
            },
        }


def measure(jobs: dict[str, Job], groups: Sequence[str], rounds: int) -> dict[str, Measured]:
    """Starts all, then goes through the groups in turns; each round begins with another decoder."""
    measured = {name: Measured() for name in jobs}
    with ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        for name, job in jobs.items():
            say(f"{name}: start")
            worker = stack.enter_context(started(job))
            with caught(measured[name], name):
                worker.wait_until_ready()
                worker.ask("run", groups[0])  # warms up
                workers[name] = worker
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            names = list(workers)
            shift = number % max(1, len(names))
            for group in groups:
                for name in names[shift:] + names[:shift]:
                    if measured[name].failed is None:
                        with caught(measured[name], name):
                            measured[name].rounds.setdefault(group, []).append(workers[name].ask("run", group))
        for name, worker in workers.items():
            if measured[name].failed is None:
                with caught(measured[name], name):
                    measured[name].memory = worker.ask("memory")
    measure_loads(jobs, measured)
    return measured


def measure_loads(jobs: dict[str, Job], measured: dict[str, Measured]) -> None:
    """Loads each some times more, in turns, with nothing else there."""
    for _ in range(LOADS):
        for name, job in jobs.items():
            if measured[name].failed is None:
                with started(job) as worker, caught(measured[name], name):
                    measured[name].loads.append(worker.wait_until_ready()["load_s"])


def started(job: Job) -> WorkerProcess:
    """A process that loads the decoder."""
    return WorkerProcess(WORKER, asdict(job), environment={"OMP_NUM_THREADS": str(job.threads)})


@contextmanager
def caught(measured: Measured, name: str) -> Iterator[None]:
    """A decoder that cannot run is left out and the reason kept."""
    try:
        yield
    except WorkerError as error:
        measured.failed = str(error)
        say(f"{name} could not run: {error}")


def ratios(
    measured: dict[str, Measured], precision: str, threads: int, groups: Sequence[str], of: str = OURS
) -> dict[str, Any]:
    """Group -> ours over CTranslate2's: the median over the rounds, and its quartiles."""
    ours, theirs = (measured[label(backend, precision, threads)] for backend in (of, THEIRS))
    if ours.failed is not None or theirs.failed is not None:
        return dict.fromkeys(groups)
    found = {}
    for group in groups:
        lower, median, upper = quartiles(
            [one / other for one, other in zip(ours.rates(group), theirs.rates(group), strict=True)]
        )
        found[group] = {"median": round(median, 3), "quartiles": [round(lower, 3), round(upper, 3)]}
    return found


def label(backend: str, precision: str, threads: int) -> str:
    return f"{backend} {precision}, {threads} thread{'s' * (threads > 1)}"


def jobs_of(
    files: Files, precisions: Sequence[str], threads: Sequence[int], groups: Path, alpha: float
) -> dict[str, Job]:
    return {
        label(backend, precision, count): Job(backend, str(path), precision, count, str(groups), alpha)
        for count in threads
        for (backend, precision), path in files.models.items()
        if precision in precisions
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure_base(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The model of random weights, every translation of one length."""
    sizes = [1, 16] if options.quick else list(FORCED)
    precisions = ["int8"] if options.quick else list(PRECISIONS)
    threads = [options.threads] if options.quick else sorted({1, options.threads})
    model = base_model()
    groups = forced_groups(sizes)
    say("base: writing the models")
    files = write_files(model, folder, groups[str(max(sizes))]["batches"][0])
    path = folder / "groups.json"
    path.write_text(json.dumps(groups))
    jobs = jobs_of(files, precisions, threads, path, 0.6)
    if not options.quick:
        jobs |= others(folder, threads, path)
    measured = measure(jobs, list(groups), options.rounds or (3 if options.quick else 7))
    return {
        "source_tokens": SOURCE_LENGTH,
        "target_tokens": TARGET_LENGTH,
        "file_mib": {
            f"{backend} {precision}": round(files.mib(backend, precision), 1) for backend, precision in files.models
        },
        "decoders": {name: one.record() for name, one in measured.items()},
        "ratios": {
            count: {precision: ratios(measured, precision, count, list(groups)) for precision in precisions}
            for count in threads
        },
    }


def others(folder: Path, threads: Sequence[int], groups: Path) -> dict[str, Job]:
    """Transformers and Optimum, where they are installed."""
    try:
        models = write_marian(folder, base_hparams())
    except ImportError as error:
        say(f"Transformers and Optimum are left out: {error} (pip install 't2tdeploy[bench-others]')")
        return {}
    return {
        label(backend, precision, count): Job(backend, str(path), precision, count, str(groups), 0.6)
        for count in threads
        for (backend, precision), path in models.items()
    }


def measure_trained(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A trained model: quality of all four, agreement with CTranslate2, speed on the test set."""
    say("trained: writing the models")
    trained = trained_model(options.run, options.checkpoint, folder)
    path = folder / "groups.json"
    path.write_text(json.dumps(trained.groups))
    plain = answers_of(jobs_of(trained.files, ["float32"], [options.threads], path, 0.0))
    jobs = jobs_of(with_early_stopping(trained.files), PRECISIONS, [options.threads], path, trained.alpha)
    answers = answers_of(jobs)
    measured = measure(jobs, ["test"], options.rounds or 5)
    names = {
        (backend, precision): label(backend, precision, options.threads) for backend, precision in trained.files.models
    }
    ours = {precision: answers[names[OURS, precision]] for precision in PRECISIONS}
    return {
        "bleu": {name: round(trained.bleu(found), 2) for name, found in answers.items()},
        "float32_and_ctranslate2_with_alpha_0": agreement(
            plain[names[OURS, "float32"]], plain[names[THEIRS, "float32"]]
        ),
        "float32_and_int8": agreement(ours["float32"], ours["int8"]),
        "file_mib": {name: round(trained.files.mib(*key), 1) for key, name in names.items()},
        "decoders": {name: one.record() for name, one in measured.items()},
        "ratios": {precision: ratios(measured, precision, options.threads, ["test"]) for precision in PRECISIONS},
        "ratios_with_early_stopping": {
            precision: ratios(measured, precision, options.threads, ["test"], OURS_EARLY) for precision in PRECISIONS
        },
    }


def with_early_stopping(files: Files) -> Files:
    """And ours once more, for the decoder that stops as CTranslate2 does."""
    return Files(
        {**files.models, **{(OURS_EARLY, precision): files.models[OURS, precision] for precision in PRECISIONS}}
    )


def answers_of(jobs: dict[str, Job]) -> dict[str, list[dict[str, Any]]]:
    """What each decoder answers to group "test"."""
    found = {}
    for name, job in jobs.items():
        with started(job) as worker:
            worker.wait_until_ready()
            found[name] = worker.ask("answers", "test")["answers"]
    return found


def last_line(result: dict[str, Any], threads: int) -> dict[str, Any]:
    """The ratios alone, and BLEU if there was a trained model."""
    found: dict[str, Any] = {
        precision: {group: ratio and ratio["median"] for group, ratio in of.items()}
        for precision, of in result["base"]["ratios"][threads].items()
    }
    if "trained" in result:
        bleu = result["trained"]["bleu"]
        found["bleu"] = {
            "float32": bleu[label(OURS, "float32", threads)],
            "int8": bleu[label(OURS, "int8", threads)],
            "ctranslate2_int8": bleu[label(THEIRS, "int8", threads)],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="base size, int8, batches of 1 and 16; writes no results")
    parser.add_argument("--run", type=Path, help="run directory of a trained Transformer")
    parser.add_argument("--checkpoint", default="best", help="of that run [best]")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--name", default="decode_vs_ctranslate2", help="of the results: another machine's stay apart")
    parser.add_argument("--work", type=Path, help="folder for the models [a temporary one]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        result = {"base": measure_base(options, folder / "base")}
        if options.run and not options.quick:
            result["trained"] = measure_trained(options, folder / "trained")
    line = last_line(result, options.threads)
    if options.quick:
        print(json.dumps(line))
        return
    plot(result["base"]["decoders"], [str(size) for size in FORCED], RESULTS / f"{options.name}.png")
    publish(options.name, result, packages=PACKAGES, last_line=line)


if __name__ == "__main__":
    main()
