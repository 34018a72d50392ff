"""Pictures of predictions: classes taken for others, confidence against accuracy, numbers against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from t2tdeploy.pictures import as_label
from t2tdeploy.problems.class_metrics import RegressionScores, calibration_error, confusion_matrix, reliability
from t2tdeploy.training.predictions import PredictionReport

_MOST_NAMES, _MOST_NUMBERS = 40, 15  # classes that are named on the axes, and whose cells have numbers
_MOST_POINTS = 5000


def pictures(report: PredictionReport) -> Mapping[str, Figure]:
    """What shows a report at a glance, by name."""
    if isinstance(report.scores, RegressionScores):
        return {"predictions": predictions_picture(report.logits, report.labels, report.scores)}
    shown = {"reliability": reliability_picture(report.logits, report.labels)}
    if report.labels.ndim == 1:  # sets of labels are not taken for one another
        shown["confusion"] = confusion_picture(confusion_matrix(report.logits, report.labels), report.classes)
    return shown


def confusion_picture(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """A heat map of matrix [true class, predicted class]: colours are shares of the true class, numbers examples."""
    count = len(classes)
    side = 2.5 + min(0.45 * count, 9.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= _MOST_NAMES:
        names = [as_label(name, longest=20) for name in classes]
        axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(count), names)
    if count <= _MOST_NUMBERS:
        for row, column in np.ndindex(matrix.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=color, fontsize="small")
    return figure


def reliability_picture(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.generic]) -> Figure:
    """Accuracy of each bin of confidence beside the diagonal of a model that knows how sure it is (Guo et al. 2017)."""
    found = reliability(logits, labels)
    filled, edges = found.count > 0, np.linspace(0.0, 1.0, len(found.count) + 1)
    figure = Figure(figsize=(4.5, 5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    upper.bar(
        edges[:-1][filled], found.accuracy[filled], width=edges[1], align="edge", color="tab:blue", edgecolor="white"
    )
    upper.plot((0, 1), (0, 1), color="gray", linestyle="--")
    upper.plot(found.confidence[filled], found.accuracy[filled], ".", color="tab:orange")
    upper.set_ylabel("accuracy")
    upper.set_ylim(0, 1)
    upper.set_title(f"calibration error {calibration_error(found):.3f}", fontsize="medium")
    lower.bar(edges[:-1], found.count / found.count.sum(), width=edges[1], align="edge", color="gray")
    lower.set_xlabel("confidence")
    lower.set_ylabel("share")
    lower.set_xlim(0, 1)
    return figure


def predictions_picture(
    values: npt.NDArray[np.float32], labels: npt.NDArray[np.generic], scores: RegressionScores
) -> Figure:
    """Predicted against true numbers, evenly chosen where there are many."""
    flat, wanted = values.reshape(-1), labels.reshape(-1)
    chosen = np.linspace(0, len(flat) - 1, min(len(flat), _MOST_POINTS)).astype(np.int64)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(wanted[chosen], flat[chosen], ".", markersize=3, alpha=0.5)
    axes.axline((float(wanted[0]),) * 2, slope=1, color="gray", linestyle="--")
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    explained = "" if scores.r2 is None else f", R² {scores.r2:.3f}"
    axes.set_title(f"RMSE {scores.rmse:.4g}{explained}", fontsize="medium")
    return figure
