"""Checks an exported model without a search: its graph answers as torch does, in a batch and alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from t2tdeploy.columns.fitted import NumericColumn, column_of
from t2tdeploy.errors import ParityError
from t2tdeploy.export.single_pass import Batch, graph_input, inputs_of, output_names
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.model import Model
from t2tdeploy.runtime import Session

TOLERANCE = 1e-3
"""Largest difference of a logit, as a share of the largest logit of the example; of a value, in standard deviations of
the target, as a share of its distance from the mean. But at least of 1."""

RULED_OUT = 100.0
"""A logit so far from the likeliest one, or from 0 where an example may have several classes, says that a class is out
of the question, or sure: a model may make it -1e9. It is compared by its own size, which is no measure of others."""

ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""The share of a value that float32 may lose, which is a large part of a deviation if the mean is far from 0."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ClassifierParity:
    """How the graph compares with the torch model.

    Args:
        examples: compared.
        identical: of these, with the same likeliest class (all, if the model regresses).
        largest_difference: of an output, see TOLERANCE.
        largest_batch_difference: the same between an example in a batch and alone, by the graph.
    """

    examples: int
    identical: int
    largest_difference: float
    largest_batch_difference: float
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether the graph computes what the model does."""
        return self.largest_difference <= self.tolerance


def verify_classifier(model: Model, session: Session, examples: Batch) -> ClassifierParity:
    """Compares graph and model on a batch, and the graph with itself on each example alone.

    Raises:
        ParityError: they differ.
    """
    inputs = inputs_of(model)
    first = output_names(model)[0]
    feeds = {graph_input(spec): examples[name] for name, spec in inputs.items()}
    (found,) = session.call([first], feeds)
    count = len(found)
    alone = [
        session.call([first], {name: _without_padding(values[row : row + 1]) for name, values in feeds.items()})[0]
        for row in range(count)
    ]
    wanted, target = forward(model, examples), model.features[model.target]
    report = ClassifierParity(
        examples=count,
        identical=int((found.argmax(-1) == wanted.argmax(-1)).sum()) if first == "logits" else count,
        largest_difference=_largest(found, wanted, target),
        largest_batch_difference=_largest(np.concatenate(alone), found, target),
    )
    if not report.passed:
        raise ParityError(
            f"the exported graph and the model differ: {_in_words(report, target)}",
            help="a model of your own: does its body depend on sizes or values of the batch in Python?",
        )
    return report


def _in_words(report: ClassifierParity, target: FeatureSpec) -> str:
    if target.modality is Modality.REAL:
        return (
            f"values by up to {report.largest_difference:.2g} standard deviations of the target "
            f"(tolerance {report.tolerance:g})"
        )
    return (
        f"logits by up to {report.largest_difference:.2g} (tolerance {report.tolerance:g}), "
        f"{report.identical} of {report.examples} examples with the same class"
    )


def forward(model: Model, batch: Batch) -> Array:
    """What torch computes: logits or values."""
    model.eval()
    with torch.no_grad():
        tensors = {name: torch.from_numpy(np.ascontiguousarray(batch[name])) for name in inputs_of(model)}
        found: Array = model(tensors).float().numpy()
    return found


def _without_padding(values: Array) -> Array:
    """One row of ids without PAD behind it; anything else as it is."""
    if values.ndim != 2 or values.dtype != np.int64:
        return values
    return values[:, : max(1, int(np.count_nonzero(values)))]


def _largest(found: Array, wanted: Array, target: FeatureSpec) -> float:
    """The largest difference, see TOLERANCE; infinite where one of them has what no answer may be."""
    if found.shape != wanted.shape:
        return float("inf")
    differences = _of_values if target.modality is Modality.REAL else _of_logits
    return float(differences(found.astype(np.float64), wanted.astype(np.float64), target).max())


def _of_values(found: Array, wanted: Array, target: FeatureSpec) -> Array:
    if not (np.isfinite(found) & np.isfinite(wanted)).all():
        return np.array(np.inf)
    mean, deviation = _spread(wanted, target)
    beyond_rounding = np.maximum(np.abs(found - wanted) - ROUNDING * np.abs(wanted), 0.0)
    different: Array = beyond_rounding / np.maximum(deviation, np.abs(wanted - mean))
    return different


def _spread(values: Array, target: FeatureSpec) -> tuple[Array, Array]:
    """Mean and deviation, [*shape], of the numbers that the model learned; of these values where that is not known."""
    column = column_of(target)
    if isinstance(column, NumericColumn):
        return column.constants
    deviation, size = values.std(axis=0), np.abs(values).max(axis=0)
    differ = deviation > ROUNDING * size  # otherwise they are one number, but for rounding
    return values.mean(axis=0), np.where(differ, deviation, np.where(size > 0, size, 1.0))


def _of_logits(found: Array, wanted: Array, target: FeatureSpec) -> Array:
    """A class may be ruled out by minus infinity, but not all of an example."""
    likeliest = wanted.max(-1, keepdims=True)
    if not (np.isfinite(likeliest).all() and np.isfinite(found.max(-1)).all()):
        return np.array(np.inf)
    if not np.array_equal(np.isneginf(found), np.isneginf(wanted)):
        return np.array(np.inf)
    middle = np.zeros_like(likeliest) if target.modality is Modality.MULTI_LABEL else likeliest
    near = np.abs(wanted - middle) < RULED_OUT
    largest = np.abs(np.where(near, wanted, 0.0)).max(-1, keepdims=True)
    finite = np.isfinite(wanted)
    found, wanted = np.where(finite, found, 0.0), np.where(finite, wanted, 0.0)
    different: Array = np.abs(found - wanted) / np.maximum(np.maximum(1.0, largest), np.abs(wanted))
    return different
