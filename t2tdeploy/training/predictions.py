"""Quality of a model that classifies or regresses, on a split: loss, scores, and the predictions themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.model import Model
from t2tdeploy.problems.batching import plan_evaluation
from t2tdeploy.problems.class_metrics import (
    ClassificationScores,
    RegressionScores,
    classification_scores,
    regression_scores,
)
from t2tdeploy.problems.dataset import Dataset, ProblemData
from t2tdeploy.training.engine import Batch, EvaluationSums, NotFiniteError, mean_loss
from t2tdeploy.training.processes import ALONE, Processes
from t2tdeploy.training.torch_engine import evaluation_sums


@dataclass(frozen=True)
class PredictionReport:
    """The quality of one model on one split.

    Args:
        loss: per example: negative log-likelihood in nats without label smoothing, or mean squared error in
            squared standard deviations of the training numbers.
        logits: float32 [examples, classes], or values [examples, *shape], in the order of the split.
        labels: of the same examples, as they are in batches.
        classes: their names, by id; empty for numbers.
    """

    split: str
    loss: float
    scores: ClassificationScores | RegressionScores
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[Any]
    classes: tuple[str, ...]

    @property
    def values(self) -> dict[str, float]:
        """The loss and the scores that are single numbers, by name; those that the split has none of are left out."""
        numbers = {name: value for name, value in asdict(self.scores).items() if isinstance(value, float)}
        return {"loss": self.loss, **numbers}


def evaluate_predictions(
    model: Model,
    data: ProblemData,
    split: str,
    *,
    batch_size: int,
    score: Callable[[Batch], EvaluationSums] | None = None,
    processes: Processes = ALONE,
) -> PredictionReport:
    """Scores `model`, whose target is not text, on `split`; the same report in all processes.

    Args:
        batch_size: tokens per batch, padding included; examples, where no feature is text.
        score: what measures a batch, e.g. an engine's `evaluate`; None: the model itself.
        processes: that share the batches, each with the same model.

    Raises:
        NotFiniteError: the loss, or a prediction, is not finite.
    """
    dataset, target = data.split(split), model.features[model.target]
    model.eval()
    score = score or partial(evaluation_sums, model)
    batches = plan_evaluation(dataset.example_lengths, batch_size=batch_size)
    mine = [_measured(score, dataset, rows, model.target) for rows in batches[processes.rank :: processes.world_size]]
    found = [part for of_one in processes.broadcast(processes.gather(mine)) for part in of_one]
    loss = mean_loss([sums for _, sums, _ in found])
    order = np.argsort(np.concatenate([rows for rows, _, _ in found]))
    logits = np.concatenate([sums.logits for _, sums, _ in found if sums.logits is not None])[order]
    labels = np.concatenate([labels for _, _, labels in found])[order]
    _require_finite(logits, target)
    scores: ClassificationScores | RegressionScores
    if target.modality is Modality.REAL:
        scores = regression_scores(logits, labels)
    else:
        scores = classification_scores(logits, labels, target.classes)
    return PredictionReport(split, loss, scores, logits, labels, target.classes)


def _require_finite(predictions: npt.NDArray[np.float32], target: FeatureSpec) -> None:
    """Refuses what no score is defined for; a class may be ruled out, by a logit of minus infinity."""
    decisive = predictions if target.modality is Modality.REAL else predictions.max(-1)
    broken = decisive[~np.isfinite(decisive)]
    if broken.size:
        raise NotFiniteError(f"predictions have a {broken[0]}")


def _measured(
    score: Callable[[Batch], EvaluationSums], dataset: Dataset, rows: npt.NDArray[np.int64], target: str
) -> tuple[npt.NDArray[np.int64], EvaluationSums, npt.NDArray[Any]]:
    batch = dataset.batch(rows)
    return rows, score(batch), batch[target]
