"""Speed and memory of the engines on a GPU: the workers of benchmarks/training_steps.py, one at a time."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from processes import CouldNotRunError, Section
from training_batches import Rotation, multi30k_lengths, rotation
from training_steps import Job, Worker, save_batches
from worker_process import WorkerError

from t2tdeploy.runtime import available_cpus

ENGINES = {"ort": ("ort", False), "torch": ("torch", False), "compile": ("torch", True)}
BATCH_SIZES = (4096, 8192, 16384, 25000)  # tokens
BATCHES, ROUNDS = 4, 5
MINUTES = 8  # that one engine has for one size and precision
REDUCED_SIZES = "hidden_size=16,filter_size=16,num_heads=2,num_encoder_layers=1,num_decoder_layers=1,"
REDUCED_BATCH_SIZES, REDUCED_VOCABULARY = (64, 128), 100


def run_engines(
    section: Section,
    size: str,
    precisions: list[str],
    engines: list[str],
    earlier: list[dict[str, Any]],
    folder: Path,
) -> None:
    """A row for each precision, engine and batch size; one that could not run says why.

    Args:
        earlier: rows of another call; those of engines and precisions that are not asked for stay.
    """
    asked = {(precision, engine) for precision in precisions for engine in engines}
    section.rows += [row for row in earlier if (row["precision"], row["engine"]) not in asked]
    sizes_of_batches = REDUCED_BATCH_SIZES if section.reduced else BATCH_SIZES
    count, rounds = (1, 1) if section.reduced else (BATCHES, ROUNDS)
    vocabulary = {"vocabulary": REDUCED_VOCABULARY} if section.reduced else {}
    lengths = multi30k_lengths(None)
    batches = {tokens: rotation(lengths, batch_size=tokens, count=count, **vocabulary) for tokens in sizes_of_batches}
    file = folder / "batches.npz"
    save_batches(file, {str(tokens): made.batches for tokens, made in batches.items()})
    for precision in precisions:
        for name in engines:
            engine, compiled = ENGINES[name]
            job = Job(
                engine,
                keep_memory=section.reduced,
                hparams_set=f"transformer_{size}",
                hparams=f"{REDUCED_SIZES if section.reduced else ''}"
                f"precision={precision},compile={str(compiled).lower()}",
                batches=str(file),
                threads=available_cpus(),
                device="cpu" if section.reduced else "cuda",
                **vocabulary,
            )
            _measure(section, {"precision": precision, "engine": name}, job, batches, rounds)


def _measure(section: Section, what: dict[str, Any], job: Job, batches: dict[int, Rotation], rounds: int) -> None:
    """Rows of one engine, from the smallest batches to the largest: neither engine gives memory back."""
    missing = list(batches)
    try:
        limit = min(section.seconds_left, MINUTES * 60)
        with Worker(job, environment=section.variables, seconds=limit) as worker:
            started = worker.wait_until_ready()
            for tokens, made in batches.items():
                first = worker.first_pass(str(tokens))
                worker.mark()
                passes = [worker.run(str(tokens)) for _ in range(rounds)]
                row = _row(made, passes, worker.memory())
                begin = {name: round(seconds, 2) for name, seconds in {**started, "first_pass_s": first}.items()}
                section.rows.append({**what, "batch_size": tokens, **row, **begin})
                missing.remove(tokens)
    except (WorkerError, CouldNotRunError) as error:
        section.rows += [{**what, "batch_size": tokens, "could_not_run": str(error)} for tokens in missing]


def _row(batches: Rotation, passes: list[list[float]], memory: dict[str, Any]) -> dict[str, Any]:
    seconds = statistics.median(sum(steps) for steps in passes)
    return {
        "ms_per_step": round(seconds / len(batches.batches) * 1000, 2),
        "tokens_per_second": round(batches.tokens / seconds),
        "padding_share": round(batches.padding_share, 4),
        "gpu_mib": round(memory["device_bytes"] / 2**20),
        "steps": sum(map(len, passes)),
    }
