"""Memory of engine ort over many steps whose batches have any shape: it must not grow with the shapes it has seen.

Part of train_engines.py --memory. Writes results/train_memory.json and .png.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, publish
from training_batches import VOCABULARY, random_batch
from training_steps import Job, Worker, save_batches
from training_worker import resident_bytes

HPARAMS_SET = "transformer_tiny"
STRIDE = 10  # steps between two readings


def measure_memory(*, steps: int, threads: int, batch_size: int) -> None:
    """Trains for `steps` steps in this process and publishes its resident memory on the way."""
    import torch

    from t2tdeploy.features import FeatureSpec, Modality
    from t2tdeploy.models.transformer import Transformer
    from t2tdeploy.registry import hparams_sets
    from t2tdeploy.training.allocator import keep_freed_memory
    from t2tdeploy.training.engines import make_engine

    _build_graph_elsewhere(threads)
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hparams = hparams_sets.get(HPARAMS_SET)()
    features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", VOCABULARY) for name in ("inputs", "targets")}
    engine = make_engine("ort", Transformer(hparams, features), hparams, device=torch.device("cpu"))
    generator = np.random.default_rng(0)
    shapes = set()
    readings = {0: resident_bytes("VmRSS")}
    for step in range(1, steps + 1):
        batch = random_batch(generator, batch_size=batch_size)
        shapes.add((*batch["inputs"].shape, batch["targets"].shape[1]))
        engine.step([batch], learning_rate=1e-4)
        if step % STRIDE == 0 or step == steps:
            readings[step] = resident_bytes("VmRSS")
    mib = {step: round(value / 2**20, 1) for step, value in readings.items()}
    plot(mib, RESULTS / "train_memory.png")
    publish("train_memory", {"hparams_set": HPARAMS_SET, "batch_size": batch_size, **summary(mib, len(shapes))},
            packages=("torch", "onnxruntime"))  # fmt: skip


def summary(mib: dict[int, float], shapes: int) -> dict[str, Any]:
    """Resident MiB at the start, after each quarter of the steps, and the most in each quarter."""
    last = max(mib)
    ends = [last * quarter // 4 // STRIDE * STRIDE for quarter in (1, 2, 3)] + [last]
    return {
        "steps": last,
        "different_shapes": shapes,
        "resident_mib": {"start": mib[0], **{f"after_{end}": mib[end] for end in ends}},
        "most_mib_until": {f"{end}": max(value for step, value in mib.items() if step <= end) for end in ends},
    }


def plot(mib: dict[int, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    RESULTS.mkdir(exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(8, 3.5), layout="constrained")
    axes.plot(list(mib), list(mib.values()), color="#1b6ca8")
    axes.set(xlabel="step, each of another shape", ylabel="resident memory, MiB", ylim=(0, max(mib.values()) * 1.1))
    axes.set_title(f"engine ort, {HPARAMS_SET}, batches of any shape", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _build_graph_elsewhere(threads: int) -> None:
    """Puts the training graph into the cache: building it takes memory that would be counted here."""
    with tempfile.TemporaryDirectory() as folder:
        batches = Path(folder) / "batches.npz"
        save_batches(batches, {"one": [random_batch(np.random.default_rng(0), batch_size=64)]})
        with Worker(Job("ort", True, HPARAMS_SET, "", str(batches), threads)) as worker:
            worker.wait_until_ready()
