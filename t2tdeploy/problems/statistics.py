"""What is in the data: DATA_DIR/NAME.statistics.json and a histogram NAME.statistics.png."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.features import LABELS, UNK_ID, FeatureSpec, Modality
from t2tdeploy.files import atomic_file, write_json
from t2tdeploy.hparams import HParams
from t2tdeploy.problems.dataset import Dataset, ProblemData
from t2tdeploy.problems.problem import Problem
from t2tdeploy.problems.statistics_plot import draw
from t2tdeploy.problems.text import BadLines
from t2tdeploy.progress import Reporter, Task
from t2tdeploy.settings import parse_overrides
from t2tdeploy.tokenizer import SentencePieceTokenizer, Tokenizer

_PERCENTILES = (50, 90, 99)
_EXAMPLES_AT_ONCE = 50_000
_ARRAYS_AT_ONCE = 200


def statistics_path(data_dir: Path, name: str) -> Path:
    """DATA_DIR/NAME.statistics.json; the picture has the suffix .png."""
    return data_dir / f"{name}.statistics.json"


def write_statistics(
    data: ProblemData, bad_lines: Mapping[str, BadLines], data_dir: Path, reporter: Reporter
) -> dict[str, Any]:
    """Describes all splits and writes the JSON file and the picture."""
    datasets = {split: data.split(split) for split in data.record.splits}
    max_length = usual_max_length(data.problem)
    with reporter.task("statistics", sum(map(len, datasets.values())), "examples") as task:
        content = {"problem": data.name, **describe(datasets, data, bad_lines, max_length, task)}
    path = statistics_path(data_dir, data.name)
    with atomic_file(path.with_suffix(".png")) as temporary:
        draw(datasets, data.features, data.name, max_length, temporary)
    write_json(path, content)
    for split, lines in bad_lines.items():
        if lines.count:
            share = lines.count / (lines.count + content["splits"][split]["examples"])
            reporter.event(
                "bad_lines",
                split=split,
                count=lines.count,
                share=round(share, 4),
                reasons=lines.reasons(),
                details=str(path),
            )
    return content


def usual_max_length(problem: Problem) -> int:
    """The `max_length` of the problem's default hparams, else that of all hparams; a run may set another."""
    given = [assignment for assignment in parse_overrides(problem.default_hparams) if assignment[0] == "max_length"]
    return HParams().assign(given).max_length


def describe(
    datasets: Mapping[str, Dataset],
    data: ProblemData,
    bad_lines: Mapping[str, BadLines],
    max_length: int,
    task: Task,
) -> dict[str, Any]:
    """The content of the JSON file; lengths are in tokens, EOS included.

    Args:
        max_length: limit that `longer_than_max_length` counts against.
    """
    hashes = {split: _example_hashes(dataset, list(data.features), task) for split, dataset in datasets.items()}
    splits = {}
    for split, lines in bad_lines.items():
        splits[split] = {"examples": 0, "bad_lines": lines.to_json()}
        if split in datasets:
            splits[split] |= _describe_split(datasets[split], data, max_length)
            splits[split]["duplicates"] = len(hashes[split]) - len(np.unique(hashes[split]))
    shared = [
        {"splits": [first, second], "examples": int(np.isin(hashes[second], hashes[first]).sum())}
        for first, second in combinations(hashes, 2)
    ]
    return {"max_length": max_length, "splits": splits, "shared_between_splits": shared}


def _describe_split(dataset: Dataset, data: ProblemData, max_length: int) -> dict[str, Any]:
    content: dict[str, Any] = {"examples": len(dataset)}
    for feature, spec in data.features.items():
        if spec.modality is Modality.SYMBOL:
            content[feature] = {
                **_describe_lengths(dataset.lengths[feature], max_length),
                **_describe_ids(dataset.id_counts(feature, spec.vocab_size), data.tokenizers[feature]),
            }
        elif spec.modality in LABELS:
            content[feature] = {"classes": class_counts(dataset, spec)}
        elif spec.modality is Modality.REAL and not spec.shape:
            content[feature] = _describe_numbers(np.array(dataset.samples(feature)))
    if dataset.lengths:
        content["longer_than_max_length"] = int((dataset.example_lengths > max_length).sum())
    if {"inputs", "targets"} <= dataset.lengths.keys():
        ratio = dataset.lengths["targets"] / dataset.lengths["inputs"]
        content["target_tokens_per_input_token"] = {
            "mean": round(float(ratio.mean()), 3),
            **{f"p{share}": round(float(np.percentile(ratio, share)), 3) for share in (1, *_PERCENTILES)},
        }
    return content


def class_counts(dataset: Dataset, spec: FeatureSpec) -> dict[str, int]:
    """How many examples have each class of a label feature, in the order of their ids."""
    counts = dataset.id_counts(spec.name, len(spec.classes))
    return dict(zip(spec.classes, map(int, counts), strict=True))


def _describe_numbers(values: npt.NDArray[np.float64]) -> dict[str, float]:
    found = {"mean": values.mean(), "deviation": values.std(), "min": values.min(), "max": values.max()}
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def _describe_lengths(lengths: npt.NDArray[np.int32], max_length: int) -> dict[str, Any]:
    return {
        "tokens": int(lengths.sum()),
        "mean": round(float(lengths.mean()), 2),
        **{f"p{share}": round(float(np.percentile(lengths, share)), 1) for share in _PERCENTILES},
        "max": int(lengths.max()),
        "longer_than_max_length": int((lengths > max_length).sum()),
    }


def _describe_ids(counts: npt.NDArray[np.int64], tokenizer: Tokenizer) -> dict[str, Any]:
    """How much of the text the vocabulary does not know, and how much of the vocabulary the text uses."""
    content: dict[str, Any] = {
        "unknown_share": float(counts[UNK_ID] / counts.sum()),
        "vocabulary_used": int((counts > 0).sum()),
        "vocab_size": tokenizer.vocab_size,
    }
    if isinstance(tokenizer, SentencePieceTokenizer):
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        spelled = [piece.startswith("<0x") and piece.endswith(">") for piece in pieces]
        content["byte_fallback_share"] = float(counts[spelled].sum() / counts.sum())
    return content


def _example_hashes(dataset: Dataset, features: list[str], task: Task) -> npt.NDArray[np.uint64]:
    """64 bits per example, of all features: enough to count equal ones."""
    hashes = np.empty(len(dataset), np.uint64)
    at_once = _EXAMPLES_AT_ONCE if dataset.lengths else _ARRAYS_AT_ONCE
    for start in range(0, len(dataset), at_once):
        indices = np.arange(start, min(start + at_once, len(dataset)))
        keys = zip(*(dataset.keys(feature, indices) for feature in features), strict=True)
        digests = (hashlib.blake2b(b"\n".join(key), digest_size=8).digest() for key in keys)
        hashes[indices] = np.frombuffer(b"".join(digests), np.uint64)
        task.advance(len(indices))
    return hashes
