"""Evaluations of an Estimator that were killed, or are of input without end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import t2tdeploy
from t2tdeploy.errors import TrainingError
from t2tdeploy.training.checkpoints import CheckpointStore
from t2tdeploy.training.estimator import Estimator
from t2tdeploy.training.quality import PredictionQuality
from tests.training.flowers import flowers, held_out, input_fn, make


class KilledError(Exception):
    pass


def killed_in_evaluation(estimator: Estimator, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains; the evaluation after the last of the steps does not end."""
    measure = PredictionQuality.measure

    def kill(self: PredictionQuality, *given: Any) -> Any:
        if CheckpointStore(estimator.model_dir / "checkpoints").steps()[-1:] == [steps]:
            raise KilledError
        return measure(self, *given)

    with monkeypatch.context() as context:
        context.setattr(PredictionQuality, "measure", kill)
        with pytest.raises(KilledError):
            evaluated(estimator, steps)


def evaluated(estimator: Estimator, steps: int, **options: Any) -> dict[str, float]:
    spec = t2tdeploy.EvalSpec(held_out, every_steps=20, metric="loss", **options)
    return estimator.train_and_evaluate(t2tdeploy.TrainSpec(input_fn, max_steps=steps), spec)


def test_an_evaluation_that_was_killed_at_the_end_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = make(tmp_path / "killed")
    killed_in_evaluation(estimator, 40, monkeypatch)
    assert evaluated(estimator, 40) == evaluated(make(tmp_path / "whole"), 40)
    assert evaluated(estimator, 40)["global_step"] == 40


def test_training_alone_goes_on_after_a_killed_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = make(tmp_path)
    killed_in_evaluation(estimator, 20, monkeypatch)
    assert estimator.train(input_fn, steps=5).evaluate(held_out)["global_step"] == 25


def test_a_model_that_diverged_is_an_error_of_training_or_evaluation(tmp_path: Path) -> None:
    diverging = {"learning_rate_constant": 1e30, "learning_rate_warmup_steps": 1, "batch_size": 16}
    with pytest.raises(TrainingError, match=r"step 1: the evaluation's loss is (nan|inf)"):
        evaluated(make(tmp_path / "during", hparams=diverging), 1)
    estimator = make(tmp_path / "after", hparams=diverging).train(input_fn, steps=1)
    with pytest.raises(TrainingError, match=r"^the evaluation's loss is (nan|inf)"):
        estimator.evaluate(held_out)


def test_so_many_batches_are_evaluated_and_calibrated_on(tmp_path: Path) -> None:
    """Of a function that gives batches without end."""

    def without_end() -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        while True:
            yield flowers(16, seed=1)

    given: list[int] = []

    def counted() -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        given.append(0)
        for batch in without_end():
            given[-1] += 1
            yield batch

    spec = t2tdeploy.EvalSpec(counted, steps=3, every_steps=20, export_to=tmp_path / "bundle")
    make(tmp_path / "run").train_and_evaluate(t2tdeploy.TrainSpec(input_fn, max_steps=20), spec)
    assert len(given) == 3
    assert set(given) <= {3, 4}
    assert t2tdeploy.load(tmp_path / "bundle").bundle.manifest.temperature is not None
