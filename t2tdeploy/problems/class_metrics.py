"""Scores of predicted classes and numbers, by scikit-learn where it has them; how far probabilities can be trusted.

An `auc` is that of one class against the rest, averaged over the classes that a split has, but not alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
TOP = 5
BINS = 15  # of confidence, as Guo et al. 2017
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class ClassScores:
    """How well one class is found.

    Args:
        examples: that have this label.
        auc: None if all examples have the label, or none has.
    """

    precision: float
    recall: float
    f1: float
    auc: float | None
    examples: int


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of a split, from 0 to 1.

    Args:
        accuracy: share of examples whose label, or whole set of labels, is right.
        accuracy_top5: share of examples whose label is among the five likeliest; None where there are no more
            classes, and for sets of labels.
        precision, recall, f1: means over the classes that an example has or is taken for, as scikit-learn's macro
            averages are.
        auc: mean over the classes that have one; None where no class does.
        calibration_error: by how much confidence and accuracy differ, see `calibration_error`.
        by_class: the same for each class, by name.
    """

    accuracy: float
    accuracy_top5: float | None
    precision: float
    recall: float
    f1: float
    auc: float | None
    calibration_error: float
    by_class: dict[str, ClassScores]


@dataclass(frozen=True)
class RegressionScores:
    """Scores of predicted numbers, over all numbers of all examples.

    Args:
        rmse: root of the mean squared error, in the unit of the numbers.
        mae: mean absolute error.
        r2: share of the variance that is explained; None where there is no variance.
    """

    rmse: float
    mae: float
    r2: float | None


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, by bins of confidence of equal width.

    Args:
        confidence, accuracy: means of each bin, [bins]; not a number where it is empty.
        count: predictions of each bin, [bins].
    """

    confidence: Floats
    accuracy: Floats
    count: npt.NDArray[np.int64]


def classification_scores(logits: Floats, labels: npt.NDArray[Any], classes: Sequence[str]) -> ClassificationScores:
    """Scores of logits [examples, classes] against labels [examples], or against sets of labels [examples, classes].

    Raises:
        InputError: there are no examples, or their numbers differ.
    """
    _require_equal_numbers(logits, labels)
    from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score  # takes a second to load

    found, every = probabilities(logits, labels), range(len(classes))
    is_set = labels.ndim == 2
    hot = labels > 0.5 if is_set else labels[:, None] == np.arange(len(classes))
    predicted = found > 0.5 if is_set else logits.argmax(-1)[:, None] == np.arange(len(classes))
    one = hot.shape[1] == 1  # a column, which scikit-learn takes for labels 0 and 1
    precision, recall, f1, counts = precision_recall_fscore_support(
        hot[:, 0] if one else hot,
        predicted[:, 0] if one else predicted,
        labels=[1] if one else every,
        average=None,
        zero_division=0.0,
    )
    top5 = None
    if not is_set and len(classes) > TOP:
        top5 = float(top_k_accuracy_score(labels, found, k=TOP, labels=every))
    by_class = {
        name: ClassScores(float(precision[i]), float(recall[i]), float(f1[i]), _auc(hot[:, i], found[:, i]), int(n))
        for i, (name, n) in enumerate(zip(classes, counts, strict=True))
    }
    seen = hot.any(0) | predicted.any(0)  # none: sets of labels, all of them empty, and rightly so
    precision, recall, f1 = (values[seen] if seen.any() else np.zeros(1) for values in (precision, recall, f1))
    areas = [scores.auc for scores in by_class.values() if scores.auc is not None]
    return ClassificationScores(
        accuracy=float((hot == predicted).all(-1).mean()),
        accuracy_top5=top5,
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        auc=float(np.mean(areas)) if areas else None,
        calibration_error=calibration_error(reliability(logits, labels)),
        by_class=by_class,
    )


def regression_scores(values: Floats, labels: Floats) -> RegressionScores:
    """Scores of values [examples, ...] against labels of the same shape.

    Raises:
        InputError: there are no examples, or their numbers differ.
    """
    _require_equal_numbers(values, labels)
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    flat, wanted = values.reshape(-1).astype(np.float64), labels.reshape(-1).astype(np.float64)
    return RegressionScores(
        rmse=float(root_mean_squared_error(wanted, flat)),
        mae=float(mean_absolute_error(wanted, flat)),
        r2=float(r2_score(wanted, flat)) if np.ptp(wanted) > 0 else None,
    )


def probabilities(logits: Floats, labels: npt.NDArray[Any], temperature: float = 1.0) -> Floats:
    """float64 [examples, classes]: softmax of logits / temperature; for sets of labels a sigmoid each."""
    from scipy.special import expit, softmax

    scaled = logits.astype(np.float64) / temperature
    result: Floats = expit(scaled) if labels.ndim == 2 else softmax(scaled, axis=-1)
    return result


def confusion_matrix(logits: Floats, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[classes, classes]: how many examples of each class (row) are taken for each (column)."""
    from sklearn.metrics import confusion_matrix as by_scikit_learn

    matrix: npt.NDArray[np.int64] = by_scikit_learn(labels, logits.argmax(-1), labels=range(logits.shape[1]))
    return matrix


def reliability(logits: Floats, labels: npt.NDArray[Any], *, temperature: float = 1.0, bins: int = BINS) -> Reliability:
    """How often predictions of a confidence are right: of the likeliest class, or of each class of a set of labels."""
    found = probabilities(logits, labels, temperature)
    if labels.ndim == 2:
        confident, right = found.reshape(-1), labels.reshape(-1) > 0.5
    else:
        confident, right = found.max(-1), found.argmax(-1) == labels
    # A bin includes its upper end, so that a probability of 1 is in the last.
    places = np.clip(np.ceil(confident * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            confidence=np.bincount(places, confident, minlength=bins) / count,
            accuracy=np.bincount(places, right, minlength=bins) / count,
            count=count,
        )


def calibration_error(found: Reliability) -> float:
    """Expected calibration error: |accuracy - confidence|, the mean over all predictions (Guo et al. 2017)."""
    filled = found.count > 0
    gaps = np.abs(found.accuracy[filled] - found.confidence[filled])
    return float(np.average(gaps, weights=found.count[filled]))


def fit_temperature(logits: Floats, labels: npt.NDArray[Any]) -> float:
    """The temperature whose probabilities are the likeliest, given the labels (Guo et al. 2017).

    It changes no ranking, only how sure the model is. Fit it on dev, never on what the model was trained on.

    Args:
        logits: [examples, classes]
        labels: [examples], or sets of labels [examples, classes].

    Returns:
        from 0.05 to 20; these where the best one lies outside, as where all predictions are right.

    Raises:
        InputError: there are no examples, or their numbers differ.
    """
    _require_equal_numbers(logits, labels)
    from scipy.optimize import minimize_scalar

    negative = _negative_log_likelihood(logits.astype(np.float64), labels)
    low, high = (1.0 / temperature for temperature in reversed(_TEMPERATURES))
    # Convex in the inverse; on the scale of its logarithm there is still one minimum, and both ends are as near.
    best = minimize_scalar(lambda x: negative(float(np.exp(x))), bounds=(np.log(low), np.log(high)), method="bounded")
    return float(np.exp(-best.x))


def _negative_log_likelihood(logits: Floats, labels: npt.NDArray[Any]) -> Callable[[float], float]:
    """As a function of what logits are multiplied by."""
    if labels.ndim == 2:
        signed = np.where(labels > 0.5, logits, -logits)
        return lambda factor: float(np.logaddexp(0.0, -signed * factor).mean())
    # Of the label's logit only the distance to the others counts.
    distances = logits - np.take_along_axis(logits, labels[:, None], axis=-1)
    return lambda factor: float(np.logaddexp.reduce(distances * factor, axis=-1).mean())


def _auc(is_label: npt.NDArray[np.bool_], found: Floats) -> float | None:
    from sklearn.metrics import roc_auc_score

    if is_label.all() or not is_label.any():
        return None
    return float(roc_auc_score(is_label, found))


def _require_equal_numbers(found: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    if len(found) != len(labels) or not len(labels):
        raise InputError(f"{len(found)} predictions for {len(labels)} labels: one of each is needed per example")
