"""The contract between the trainer and what computes: forward, backward and the update of the parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from t2tdeploy.errors import TrainingError
from t2tdeploy.models.model import Model

Batch = Mapping[str, np.ndarray]  # feature -> what features.py says of its modality


class StepMetrics(NamedTuple):
    """What one optimizer step measured.

    Args:
        loss: mean training loss (label smoothing included) per label, over all accumulated batches.
        labels: their number.
        gradient_norm: global L2 norm of the gradients, before clipping.
        skipped: the gradients overflowed in float16, and the parameters stayed; the next step has a smaller loss scale.
    """

    loss: float
    labels: int
    gradient_norm: float
    skipped: bool = False


class EvaluationSums(NamedTuple):
    """What evaluation measured on one batch, summed over labels, so that batches add up.

    Args:
        loss: negative log-likelihood in nats, without label smoothing; of numbers their squared error.
        labels: tokens that are not padding, or examples.
        correct: labels that the model ranks first, given the true prefix.
        logits: float32 [batch, classes], or values [batch, *shape]; None where the target is text.
    """

    loss: float
    labels: int
    correct: int
    logits: np.ndarray | None = None


class NotFiniteError(TrainingError):
    """An evaluation found something that is no finite number; training that diverged left such parameters."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the evaluation's {what}",
            help="if training diverged, evaluate an earlier checkpoint, or train again with a lower "
            "learning_rate_constant; else look for numbers in the data that are far too large",
        )


def mean_loss(sums: Sequence[EvaluationSums]) -> float:
    """The loss per label over batches.

    Raises:
        NotFiniteError: it is not finite.
    """
    total = sum(item.loss for item in sums)
    if not math.isfinite(total):
        raise NotFiniteError(f"loss is {total}")
    return math.fsum(item.loss for item in sums) / sum(item.labels for item in sums)


class EngineState(NamedTuple):
    """All that decides the next step, as flat name -> tensor dicts.

    Args:
        model: parameters and persistent buffers; a tied parameter appears once.
        optimizer: moments of the update rule, and the states of the random generators.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class Engine(Protocol):
    """Computes steps. The trainer owns data, step numbers, the schedule and files; the engine owns the arithmetic."""

    @property
    def model(self) -> Model:
        """The model with the current parameters, for search and pictures."""

    def step(self, batches: Sequence[Batch], *, learning_rate: float) -> StepMetrics:
        """One optimizer step on the union of `batches`, whose gradients are accumulated.

        If the loss or the gradient norm is not finite, the parameters stay as they are; the caller checks.

        Raises:
            TrainingError: memory ran out.
        """

    def evaluate(self, batch: Batch) -> EvaluationSums:
        """Loss and accuracy on one batch, without dropout; changes nothing.

        Raises:
            TrainingError: memory ran out.
        """

    def probe(self, batches: Sequence[Batch]) -> None:
        """Two whole steps on `batches`, the second with the optimizer's moments in memory; then all is as before.

        Raises:
            TrainingError: they do not fit into memory.
        """

    def state(self) -> EngineState:
        """The state now; the tensors may be live: save them before the next step."""

    def load(self, state: EngineState) -> None:
        """Continues from `state`."""
