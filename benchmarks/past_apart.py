"""What it gives and costs that a search keeps what was decoded long ago apart from what its steps copy
(export/segments.py), with random weights: transformer_base, and the size of transformer_multi30k.

Sources of 25 tokens, 32 steps of every search, with one thread and with two. Each graph has a process of its own; all
live at the same time and translate in turns. A speedup is the median over the rounds of the ratio within a round: apart
over whole. Memory is the most that a process had. The last line is one JSON object: size -> threads -> precision ->
batch size -> speedup.

    python benchmarks/past_apart.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import publish
from decode_backends import BEAM
from decode_models import TARGET_LENGTH, forced_groups
from decode_vs_ctranslate2 import Job, Measured, measure

from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.placement import serialized
from t2tdeploy.export.quantize import quantize_search
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.registry import hparams_sets

SIZES = {"transformer_base": 32_000, "transformer_multi30k": 6_000}  # and words
FIRST_WORD = 3  # the ids before have a meaning of their own
BATCHES = [1, 16, 64]
THREADS = (1, 2)
APART = {"apart": True, "whole": False}


def groups_of(words: int) -> dict[str, dict[str, Any]]:
    """As `forced_groups`, of the first `words` ids."""
    groups = forced_groups(BATCHES)
    for group in groups.values():
        group["batches"] = [
            [[one if one < FIRST_WORD else FIRST_WORD + (one - FIRST_WORD) % (words - FIRST_WORD) for one in row]
             for row in batch]
            for batch in group["batches"]
        ]  # fmt: skip
    return groups


def graphs_of(size: str, folder: Path) -> dict[tuple[str, str], Path]:
    """(precision, "apart" or "whole") -> its graph; writes the batches beside them."""
    torch.manual_seed(0)
    features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", SIZES[size]) for name in ("inputs", "targets")}
    model, groups = Transformer(hparams_sets.get(size)(), features).eval(), groups_of(SIZES[size])
    (folder / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
    calibration = groups[str(BATCHES[-1])]["batches"][0]
    files = {}
    for name, apart in APART.items():
        graph = export_beam_search(model, apart=apart)
        small = quantize_search(graph, calibration, beam_size=BEAM, alpha=0.6, extra_length=TARGET_LENGTH)
        for precision, one in (("float32", graph), ("int8", small)):
            files[precision, name] = folder / f"{precision}.{name}.onnx"
            files[precision, name].write_bytes(serialized(one))
    return files


def records(files: Mapping[tuple[str, str], Path], threads: int, rounds: int) -> dict[str, Any]:
    """Precision -> what was measured with so many threads."""
    jobs = {
        f"{precision}, {name}": Job("t2tdeploy", str(path), precision, threads, str(path.parent / "groups.json"), 0.6)
        for (precision, name), path in files.items()
    }
    measured = measure(jobs, [str(one) for one in BATCHES], rounds)
    return {precision: record(measured, precision) for precision in ("float32", "int8")}


def record(measured: Mapping[str, Measured], precision: str) -> dict[str, Any]:
    apart, whole = (measured[f"{precision}, {name}"] for name in APART)
    if failed := [one.failed for one in (apart, whole) if one.failed]:
        return {"failed": failed}
    speedups = {
        str(size): [one / other for one, other in zip(apart.rates(str(size)), whole.rates(str(size)), strict=True)]
        for size in BATCHES
    }
    return {
        "peak_mib": {name: measured[f"{precision}, {name}"].record()["peak_mib"] for name in APART},
        "speedup": {size: round(statistics.median(ratios), 2) for size, ratios in speedups.items()},
        "speedup_of_rounds": {size: [round(ratio, 2) for ratio in ratios] for size, ratios in speedups.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            files = graphs_of(size, Path(folder))
            found[size] = {str(threads): records(files, threads, options.rounds) for threads in THREADS}
    publish(
        "past_apart",
        {"rounds": options.rounds, "sizes": found},
        packages=("torch", "onnx", "onnxruntime"),
        last_line={
            size: {threads: {kind: one.get("speedup") for kind, one in by.items()} for threads, by in of.items()}
            for size, of in found.items()
        },
    )


if __name__ == "__main__":
    main()
