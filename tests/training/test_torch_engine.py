"""What is special to the torch engine. Its other laws are those of test_gradient_engine.py."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from t2tdeploy.errors import TrainingError
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.torch_engine import TorchEngine
from tests.training.graph.small_model import HPARAMS, Small

from .conftest import NO_DROPOUT, batch, new_engine


def test_bfloat16_stays_near_float32(data: ProblemData) -> None:
    low = new_engine("torch", data, precision="bfloat16", **NO_DROPOUT)
    full = new_engine("torch", data, **NO_DROPOUT)
    rows = batch(data, 0, 1, 2)
    assert low.step([rows], learning_rate=0.0).loss == pytest.approx(
        full.step([rows], learning_rate=0.0).loss, rel=2e-2
    )
    assert all(tensor.dtype == torch.float32 for tensor in low.state().model.values())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_have_the_losses_of_eager_ones_over_changing_shapes(data: ProblemData) -> None:
    batches = [batch(data, 0), batch(data, 1, 2, 3), batch(data, 4, 5)]
    losses = []
    for compiled in (False, True):
        steps = new_engine("torch", data, compile=compiled, **NO_DROPOUT)
        losses.append([steps.step([rows], learning_rate=1e-3).loss for rows in batches])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_batch_without_a_variance_to_normalize_by_is_told_with_its_size() -> None:
    steps = TorchEngine(Small(), HPARAMS, device=torch.device("cpu"))
    one = {name: np.array([[5]]) for name in steps.model.features}
    with pytest.raises(TrainingError, match="a batch of 1 × 1 target tokens: Expected more than 1 value") as caught:
        steps.step([one], learning_rate=0.1)
    assert "batch_size" in str(caught.value.help)
