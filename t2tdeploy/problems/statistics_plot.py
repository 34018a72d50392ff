"""The picture of a problem's data: lengths of texts, and how many examples each class has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t2tdeploy.features import LABELS, FeatureSpec
from t2tdeploy.pictures import as_label
from t2tdeploy.problems.dataset import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_BARS = 60
_MAX_NAMED_CLASSES = 20
_COLORS = ("#1f6fb4", "#d1701f", "#3c8d40", "#8a4fa3")


def draw(
    datasets: Mapping[str, Dataset], features: Mapping[str, FeatureSpec], name: str, max_length: int, path: Path
) -> None:
    """Writes a PNG with a column per split.

    Its first row has the histograms of the lengths of texts, if there are any, and a line at `max_length` where it cuts
    some off; a further row for each label feature has a bar per class.
    """
    from matplotlib.figure import Figure  # heavy: only where a picture is drawn

    labels = [spec for spec in features.values() if spec.modality in LABELS]
    with_text = any(dataset.lengths for dataset in datasets.values())
    heights = [3.0] * with_text + [_height(spec) for spec in labels] or [1.0]
    figure = Figure(figsize=(4 * len(datasets), sum(heights)), layout="constrained")
    rows = figure.subplots(len(heights), len(datasets), squeeze=False, height_ratios=heights)
    for (split, dataset), axes in zip(datasets.items(), rows.T, strict=True):
        if with_text:
            _draw_lengths(axes[0], dataset, max_length)
        for axis, spec in zip(axes[int(with_text) :], labels, strict=False):
            _draw_classes(axis, dataset, spec)
        if not with_text and not labels:
            axes[0].set_axis_off()
        axes[0].set_title(f"{split} ({len(dataset):,})", fontsize="medium")
    if with_text:
        rows[0, 0].set_ylabel("examples")
        rows[0, 0].legend(frameon=False)
    figure.suptitle(name)
    figure.savefig(path, format="png", dpi=120)


def _draw_lengths(axis: Axes, dataset: Dataset, max_length: int) -> None:
    longest = int(dataset.example_lengths.max())
    width = -(-longest // _MAX_BARS)  # in whole tokens, else some bars hold more lengths than others
    edges = [edge + 0.5 for edge in range(0, longest + width, width)]
    for number, (feature, lengths) in enumerate(dataset.lengths.items()):
        color = _COLORS[number % len(_COLORS)]
        axis.hist(lengths, bins=edges, histtype="stepfilled", alpha=0.35, color=color, label=feature)
        axis.hist(lengths, bins=edges, histtype="step", color=color)
    if longest > max_length:
        axis.axvline(max_length, color="gray", linestyle="--")
    axis.set_xlabel("tokens")
    axis.spines[["top", "right"]].set_visible(False)


def _height(spec: FeatureSpec) -> float:
    """Inches of a bar chart of classes."""
    return 1.0 + 0.22 * min(len(spec.classes), _MAX_NAMED_CLASSES)


def _draw_classes(axis: Axes, dataset: Dataset, spec: FeatureSpec) -> None:
    """A bar per class, by id from above; with a name and its number as long as these can be read."""
    counts = dataset.id_counts(spec.name, len(spec.classes))
    places = np.arange(len(counts))
    bars = axis.barh(places, counts, height=0.8 if len(counts) <= _MAX_NAMED_CLASSES else 1.0, color=_COLORS[1])
    axis.invert_yaxis()
    axis.set_xlabel(f"examples by {spec.name}")
    axis.spines[["top", "right"]].set_visible(False)
    if len(counts) <= _MAX_NAMED_CLASSES:
        axis.set_yticks(places, [as_label(name, longest=24) for name in spec.classes])
        axis.bar_label(bars, padding=2, fontsize="small")
        axis.margins(x=0.15)
    else:
        axis.set_ylabel("class id")
