"""What several processes pay for talking to each other: step time, its share for adding up gradients, bytes.

    python benchmarks/communication.py

Each process has one thread and its own batch of 2048 tokens, so two processes do twice the work of one; as the other
way to use two cores, one process with two threads is measured beside them. The kinds of run are interleaved; medians of
all steps. "alone_ms" is for adding up as many bytes with nothing to compute and nobody to wait for; the difference to
"communication_ms" is waiting for the slower process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import publish

from t2tdeploy.training.launcher import launch

KINDS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}
MODELS = ("transformer_tiny", "transformer_small")
ROUNDS, STEPS, WARM_UP, VOCABULARY, BATCH, LENGTH = 3, 10, 3, 8000, 64, 32


def measure(engine_name: str, model: str, threads: int, steps: int, output: Path) -> None:
    """Runs the steps of one process; the first one writes the seconds of each to `output`."""
    import torch

    from t2tdeploy import registry
    from t2tdeploy.features import FeatureSpec, Modality
    from t2tdeploy.models.transformer import Transformer
    from t2tdeploy.training.allocator import keep_freed_memory
    from t2tdeploy.training.distributed import join_processes
    from t2tdeploy.training.engines import make_engine

    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hparams = registry.hparams_sets.get(model)()
    features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", VOCABULARY) for name in ("inputs", "targets")}
    rows = np.random.default_rng(0).integers(3, VOCABULARY, (2, BATCH, LENGTH))
    batch = dict(zip(features, rows, strict=True))
    found: dict[str, Any] = {"step": [], "communication": [], "alone": [], "bytes": 0}
    with join_processes() as processes:
        network = Transformer(hparams, features)
        engine = make_engine(engine_name, network, hparams, device=torch.device("cpu"), processes=processes)
        for _ in range(WARM_UP + steps):
            started = time.perf_counter()
            engine.step([batch], learning_rate=1e-4)
            found["step"].append(time.perf_counter() - started)
            costs = processes.communication()
            found["communication"].append(costs.get("communication_seconds", 0.0))
            found["bytes"] = costs.get("communication_bytes", 0)
        buffer = torch.zeros(int(found["bytes"]) // 4)
        for _ in range(WARM_UP + steps):
            if processes.world_size > 1:
                processes.sums([0])  # nobody waits inside what is measured
                processes.add_up([buffer])
            found["alone"].append(processes.communication().get("communication_seconds", 0.0))
        if processes.first:
            output.write_text(json.dumps(found), encoding="utf-8")


def result_of(runs: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Medians over the steps of all rounds but those that warm up."""

    def median(name: str) -> float:
        return statistics.median(seconds for run in runs for seconds in run[name][WARM_UP:])

    step, communication = median("step"), median("communication")
    return {
        "step_ms": round(step * 1000, 1),
        "communication_ms": round(communication * 1000, 1),
        "alone_ms": round(median("alone") * 1000, 1),
        "communication_share": round(communication / step, 3),
        "bytes": int(runs[0]["bytes"]),
        "tokens_per_second": round(count * 2 * BATCH * LENGTH / step),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="measured steps of a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--measure", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.engine, options.measure, options.threads, options.steps, options.output)
        return
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {model: {kind: [] for kind in KINDS} for model in MODELS}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        for _ in range(options.rounds):
            for model in MODELS:
                for kind, (count, threads) in KINDS.items():
                    words = ["--measure", model, "--threads", str(threads), "--output", str(output)]
                    settings = ["--engine", options.engine, "--steps", str(options.steps)]
                    command = [sys.executable, __file__, *settings, *words]
                    if status := launch(command, processes=count):
                        sys.exit(status)
                    runs[model][kind].append(json.loads(output.read_text(encoding="utf-8")))
    result = {
        model: {kind: result_of(found, KINDS[kind][0]) for kind, found in kinds.items()}
        for model, kinds in runs.items()
    }
    publish("communication", {"engine": options.engine, **result}, packages=("torch",))


if __name__ == "__main__":
    main()
