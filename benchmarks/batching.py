"""How many target tokens per second BatchStream feeds from one process; the goal is 300 000.

    python benchmarks/batching.py

Writes 200 000 synthetic examples as Parquet shards into a temporary folder, memory-maps them and reads epochs of
batches. Lengths are log-normal with a median of 25 tokens, as in WMT data.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from common import publish

from t2tdeploy.features import EOS_ID
from t2tdeploy.problems.batching import BatchStream
from t2tdeploy.problems.dataset import Dataset
from t2tdeploy.problems.records import memory_map, shard_paths, shard_writer

EXAMPLES = 200_000
NUM_SHARDS = 4
BATCH_SIZE_TOKENS = 4096
MAX_LENGTH = 256
SECONDS = 15
GOAL = 300_000


def write_data(folder: Path) -> list[Path]:
    """Shards of random ids."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(25), 0.6, (EXAMPLES, 2)), 2, 400).astype(int)
    paths = shard_paths(folder, "synthetic", "train", NUM_SHARDS)
    with ExitStack() as stack:
        writers = [stack.enter_context(shard_writer(path, {"problem": "synthetic"})) for path in paths]
        for index, (source, target) in enumerate(lengths):
            writers[index % NUM_SHARDS].add(
                {
                    "index": index,
                    "inputs": [*generator.integers(3, 32_000, source - 1), EOS_ID],
                    "targets": [*generator.integers(3, 32_000, target - 1), EOS_ID],
                    "inputs_text": "",
                    "targets_text": "",
                }
            )
    return paths


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = write_data(Path(folder))
        start = time.perf_counter()
        dataset = Dataset(memory_map(Path(folder) / "train.arrow", shards))
        transcription_s = time.perf_counter() - start
        start = time.perf_counter()
        stream = BatchStream(dataset, batch_size=BATCH_SIZE_TOKENS, max_length=MAX_LENGTH, seed=0)
        planning_s = time.perf_counter() - start
        padding_share, skipped = stream.plan.padding_share, len(stream.plan.skipped)
        tokens = batches = 0
        start = time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            tokens += int(np.count_nonzero(next(stream)["targets"]))
            batches += 1
        seconds = time.perf_counter() - start
    publish(
        "batching",
        {
            "target_tokens_per_second": round(tokens / seconds),
            "goal": GOAL,
            "batches_per_second": round(batches / seconds),
            "epochs_read": stream.position.epoch,
            "examples": EXAMPLES,
            "batch_size_tokens": BATCH_SIZE_TOKENS,
            "padding_share": round(padding_share, 4),
            "skipped": skipped,
            "planning_s": round(planning_s, 3),
            "transcription_s": round(transcription_s, 3),
        },
        packages=("numpy", "pyarrow"),
    )


if __name__ == "__main__":
    main()
