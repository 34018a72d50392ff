"""What is in the data: DATA_DIR/NAME.statistics.json and a histogram NAME.statistics.png."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.features import UNK_ID
from t2tdeploy.files import atomic_file, write_json
from t2tdeploy.hparams import HParams
from t2tdeploy.problems.dataset import FEATURES, Dataset, ProblemData
from t2tdeploy.problems.problem import Problem
from t2tdeploy.problems.text import BadLines
from t2tdeploy.progress import Reporter, Task
from t2tdeploy.settings import parse_overrides
from t2tdeploy.tokenizer import SentencePieceTokenizer, Tokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PERCENTILES = (50, 90, 99)
_TEXTS_AT_ONCE = 50_000
_MAX_BARS = 60


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
        content = {"problem": data.name, **describe(datasets, data.tokenizers, bad_lines, max_length, task)}
    path = statistics_path(data_dir, data.name)
    with atomic_file(path.with_suffix(".png")) as temporary:
        draw(datasets, data.name, max_length, temporary)
    write_json(path, content)
    for split, lines in bad_lines.items():
        if lines.count:
            reporter.event("bad_lines", split=split, count=lines.count, details=str(path))
    return content


def usual_max_length(problem: Problem) -> int:
    """The `max_length` of the problem's default hparams, else that of all hparams; a run may set another."""
    given = [assignment for assignment in parse_overrides(problem.default_hparams) if assignment[0] == "max_length"]
    return HParams().assign(given).max_length


def describe(
    datasets: Mapping[str, Dataset],
    tokenizers: Mapping[str, Tokenizer],
    bad_lines: Mapping[str, BadLines],
    max_length: int,
    task: Task,
) -> dict[str, Any]:
    """The content of the JSON file; lengths are in tokens, EOS included.

    Args:
        max_length: limit that `longer_than_max_length` counts against.
    """
    pairs = {split: _pair_hashes(dataset, task) for split, dataset in datasets.items()}
    splits = {}
    for split, lines in bad_lines.items():
        splits[split] = {"examples": 0, "bad_lines": lines.to_json()}
        if split in datasets:
            splits[split] |= _describe_split(datasets[split], tokenizers, max_length)
            splits[split]["duplicates"] = len(pairs[split]) - len(np.unique(pairs[split]))
    shared = [
        {"splits": [first, second], "examples": int(np.isin(pairs[second], pairs[first]).sum())}
        for first, second in combinations(pairs, 2)
    ]
    return {"max_length": max_length, "splits": splits, "shared_between_splits": shared}


def _describe_split(dataset: Dataset, tokenizers: Mapping[str, Tokenizer], max_length: int) -> dict[str, Any]:
    content: dict[str, Any] = {"examples": len(dataset)}
    for feature in FEATURES:
        content[feature] = {
            **_describe_lengths(dataset.lengths[feature], max_length),
            **_describe_ids(dataset.id_counts(feature, tokenizers[feature].vocab_size), tokenizers[feature]),
        }
    inputs, targets = (dataset.lengths[feature] for feature in FEATURES)
    content["longer_than_max_length"] = int((np.maximum(inputs, targets) > max_length).sum())
    ratio = targets / inputs
    content["target_tokens_per_input_token"] = {
        "mean": round(float(ratio.mean()), 3),
        **{f"p{share}": round(float(np.percentile(ratio, share)), 3) for share in (1, *_PERCENTILES)},
    }
    return content


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


def _pair_hashes(dataset: Dataset, task: Task) -> npt.NDArray[np.uint64]:
    """64 bits per example, of both sides: enough to count equal pairs."""
    hashes = np.empty(len(dataset), np.uint64)
    for start in range(0, len(dataset), _TEXTS_AT_ONCE):
        indices = np.arange(start, min(start + _TEXTS_AT_ONCE, len(dataset)))
        texts = zip(*(dataset.texts(feature, indices) for feature in FEATURES), strict=True)
        digests = (hashlib.blake2b("\n".join(pair).encode(), digest_size=8).digest() for pair in texts)
        hashes[indices] = np.frombuffer(b"".join(digests), np.uint64)
        task.advance(len(indices))
    return hashes


def draw(datasets: Mapping[str, Dataset], name: str, max_length: int, path: Path) -> None:
    """Writes a PNG with the histogram of lengths of each split, and a line at `max_length` where it cuts some off."""
    from matplotlib.figure import Figure  # heavy: only where a picture is drawn

    figure = Figure(figsize=(4 * len(datasets), 3), layout="constrained")
    axes = figure.subplots(1, len(datasets), squeeze=False)[0]
    for axis, (split, dataset) in zip(axes, datasets.items(), strict=True):
        _draw_split(axis, split, dataset, max_length)
    axes[0].set_ylabel("examples")
    axes[0].legend(frameon=False)
    figure.suptitle(name)
    figure.savefig(path, format="png", dpi=120)


def _draw_split(axis: Axes, split: str, dataset: Dataset, max_length: int) -> None:
    longest = max(int(lengths.max()) for lengths in dataset.lengths.values())
    width = -(-longest // _MAX_BARS)  # in whole tokens, else some bars hold more lengths than others
    edges = [edge + 0.5 for edge in range(0, longest + width, width)]
    for feature, color in zip(FEATURES, ("#1f6fb4", "#d1701f"), strict=True):
        axis.hist(dataset.lengths[feature], bins=edges, histtype="stepfilled", alpha=0.35, color=color, label=feature)
        axis.hist(dataset.lengths[feature], bins=edges, histtype="step", color=color)
    if longest > max_length:
        axis.axvline(max_length, color="gray", linestyle="--")
    axis.set_title(f"{split} ({len(dataset):,})", fontsize="medium")
    axis.set_xlabel("tokens")
    axis.spines[["top", "right"]].set_visible(False)
