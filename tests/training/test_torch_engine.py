"""What only the torch engine can do: bfloat16, torch.compile. Its other laws are those of test_gradient_engine.py."""

from __future__ import annotations

import shutil

import pytest
import torch

from t2tdeploy.problems.dataset import ProblemData

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
