"""What it brings that a training graph leaves padding out, against one that computes it.

    python benchmarks/padding.py

Engine ort trains a Transformer, and a subclass of it, of which no engine may take for granted that its layers see each
token by itself, so that its graph computes pads too. Each has a process of its own; they compute in turns, a pass over
the same batches of Multi30k's lengths each. A ratio is the median over the rounds of that within one; `of_fastest` is
that of the sums of each batch's fastest step, which says most where other work disturbs the machine.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import publish
from train_engines import BATCH_SIZE, CLIP, GROUP, PACKAGES, quartiles, say
from training_batches import multi30k_lengths, rotation
from training_steps import Job, Worker, save_batches

from t2tdeploy.runtime import available_cpus

SIZES = {"tiny": 12, "small": 8}  # rounds
BATCHES = 8
VARIANTS = {"left_out": False, "computed": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    batches = rotation(multi30k_lengths(None), batch_size=BATCH_SIZE, count=BATCHES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batches.npz"
        save_batches(path, {GROUP: batches.batches})
        sizes = {size: compared(size, path, rounds) for size, rounds in SIZES.items()}
    settings = {"batch_size": BATCH_SIZE, "threads": available_cpus(), "padding_share": round(batches.padding_share, 4)}
    publish("padding", {**settings, "sizes": sizes}, packages=PACKAGES)


def compared(size: str, batches: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step of both, and how many times as fast it is to leave padding out."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(job(size, batches, padded))) for name, padded in VARIANTS.items()}
        for worker in workers.values():
            worker.wait_until_ready()
            worker.first_pass(GROUP)
            worker.mark()
        passes: dict[str, list[list[float]]] = {name: [] for name in workers}
        for number in range(rounds):
            say(f"{size}: round {number + 1} of {rounds}")
            for name in list(workers)[:: 1 if number % 2 else -1]:
                passes[name].append(workers[name].run(GROUP))
        peaks = {name: round(worker.memory()["peak_bytes"] / 2**20) for name, worker in workers.items()}
    return summary(passes) | {"peak_mib": peaks}


def summary(passes: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Of the seconds of each step of each round."""
    steps = {name: [1000 * step for one in rounds for step in one] for name, rounds in passes.items()}
    fastest = {name: sum(min(step) for step in zip(*rounds, strict=True)) for name, rounds in passes.items()}
    pairs = zip(passes["computed"], passes["left_out"], strict=True)
    lower, median, upper = quartiles([sum(computed) / sum(left_out) for computed, left_out in pairs])
    return {
        "ms_per_step": {name: round(quartiles(of)[1], 1) for name, of in steps.items()},
        "ratio": round(median, 3),
        "quartiles": [round(lower, 3), round(upper, 3)],
        "of_fastest": round(fastest["computed"] / fastest["left_out"], 3),
    }


def job(size: str, batches: Path, padded: bool) -> Job:
    hparams = f"clip_grad_norm={CLIP}"
    return Job("ort", True, f"transformer_{size}", hparams, str(batches), available_cpus(), padded=padded)


if __name__ == "__main__":
    main()
