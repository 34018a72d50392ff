"""Laws of a step: accumulation, clipping, probing, precision."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from t2tdeploy.errors import InputError, TrainingError
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training import gradient_engine
from t2tdeploy.training.checkpoints import CheckpointStore, TrainingState
from t2tdeploy.training.engine import Batch
from t2tdeploy.training.parameters import tensors_from
from t2tdeploy.training.torch_engine import TorchEngine

from .conftest import TINY

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "relu_dropout": 0.0}


def engine(data: ProblemData, **changes: object) -> TorchEngine:
    """A new engine; engines of the same hparams are equal, and the random generator is set for its first step."""
    torch.manual_seed(1)
    hparams = TINY.replace(**changes)
    return TorchEngine(Transformer(hparams, data.features), hparams, device=torch.device("cpu"))


def batch(data: ProblemData, *rows: int) -> Batch:
    return data.split("train").batch(np.array(rows))


def parameters(engine: TorchEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.state().model.items()}


def test_accumulated_batches_equal_their_union(data: ProblemData) -> None:
    apart, union = engine(data, **NO_DROPOUT), engine(data, **NO_DROPOUT)
    measured = apart.step([batch(data, 0), batch(data, 1, 2, 3)], learning_rate=0.01)
    expected = union.step([batch(data, 0, 1, 2, 3)], learning_rate=0.01)
    assert measured.labels == expected.labels
    assert measured.loss == pytest.approx(expected.loss, abs=1e-6)
    assert measured.gradient_norm == pytest.approx(expected.gradient_norm, abs=1e-6)


def test_accumulated_gradients_equal_those_of_the_union(data: ProblemData) -> None:
    apart, union = (engine(data, optimizer="sgd", **NO_DROPOUT) for _ in range(2))
    apart.step([batch(data, 0), batch(data, 1, 2, 3)], learning_rate=1.0)
    union.step([batch(data, 0, 1, 2, 3)], learning_rate=1.0)
    expected = parameters(union)
    for name, tensor in parameters(apart).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_clipping_bounds_the_update(data: ProblemData) -> None:
    clipped = engine(data, optimizer="sgd", clip_grad_norm=0.01)
    before = parameters(clipped)
    measured = clipped.step([batch(data, 0, 1)], learning_rate=1.0)
    moved = math.sqrt(sum(float((tensor - before[name]).pow(2).sum()) for name, tensor in parameters(clipped).items()))
    assert measured.gradient_norm > 0.01
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_probe_changes_nothing(data: ProblemData) -> None:
    plain = engine(data)
    expected = [plain.step([batch(data, 0, 1)], learning_rate=0.01) for _ in range(2)]
    probed = engine(data)
    probed.probe([batch(data, 5, 6, 7)])
    assert [probed.step([batch(data, 0, 1)], learning_rate=0.01) for _ in range(2)] == expected
    for mine, theirs in zip(probed.state(), plain.state(), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_evaluation_changes_nothing_and_knows_no_smoothing(data: ProblemData) -> None:
    unevaluated = engine(data).step([batch(data, 2)], learning_rate=0.01)
    evaluated = engine(data)
    sums = evaluated.evaluate(batch(data, 0, 1))
    labels = batch(data, 0, 1)["targets"]
    assert sums.labels == np.count_nonzero(labels)
    with torch.no_grad():
        logits = evaluated.model(tensors_from(batch(data, 0, 1), evaluated.device)).log_softmax(-1)
    expected = -sum(float(logits[row, at, label]) for (row, at), label in np.ndenumerate(labels) if label)
    assert sums.loss == pytest.approx(expected, rel=1e-5)
    assert evaluated.step([batch(data, 2)], learning_rate=0.01) == unevaluated


def test_bfloat16_stays_near_float32(data: ProblemData) -> None:
    low = engine(data, precision="bfloat16", **NO_DROPOUT)
    full = engine(data, **NO_DROPOUT)
    rows = batch(data, 0, 1, 2)
    assert low.step([rows], learning_rate=0.0).loss == pytest.approx(
        full.step([rows], learning_rate=0.0).loss, rel=2e-2
    )
    assert all(tensor.dtype == torch.float32 for tensor in low.state().model.values())


def test_a_step_that_is_not_finite_leaves_the_parameters(data: ProblemData) -> None:
    broken = engine(data)
    with torch.no_grad():
        broken.model.modality("targets").weight[5, 0] = math.inf
    before = parameters(broken)
    measured = broken.step([batch(data, 0)], learning_rate=0.1)
    assert not (math.isfinite(measured.loss) and math.isfinite(measured.gradient_norm))
    after = parameters(broken)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_state_goes_through_files(data: ProblemData, tmp_path: Path) -> None:
    first = engine(data)
    first.step([batch(data, 0, 1)], learning_rate=0.01)
    store = CheckpointStore(tmp_path)
    store.save(first.state(), TrainingState(step=1, epoch=0, batch=1))
    second = engine(data)
    second.load(store.load(1)[0])
    random_state = second.state().optimizer["rng/cpu"]
    after = {}
    for resumed in (second, first):
        torch.set_rng_state(random_state)
        after[resumed] = [resumed.step([batch(data, *rows)], learning_rate=0.01) for rows in ((2, 3), (4,))]
    assert after[first] == after[second]


def test_a_checkpoint_of_another_model_is_refused(data: ProblemData) -> None:
    with pytest.raises(InputError, match="another model"):
        engine(data, hidden_size=32).load(engine(data).state())


@pytest.mark.parametrize("raised", [torch.OutOfMemoryError("CUDA"), RuntimeError("you can't allocate memory: 9 bytes")])
def test_memory_that_runs_out_is_explained(raised: Exception) -> None:
    with (
        pytest.raises(TrainingError, match="2 × 3 target tokens") as error,
        gradient_engine.memory_errors("2 × 3 target tokens"),
    ):
        raise raised
    assert "batch_size" in (error.value.help or "")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), gradient_engine.memory_errors("6 tokens"):
        raise RuntimeError("shape mismatch")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_have_the_losses_of_eager_ones_over_changing_shapes(data: ProblemData) -> None:
    small = {"num_encoder_layers": 1, "num_decoder_layers": 1, **NO_DROPOUT}
    batches = [batch(data, 0), batch(data, 1, 2, 3), batch(data, 4, 5)]
    losses = []
    for compiled in (False, True):
        steps = engine(data, compile=compiled, **small)
        losses.append([steps.step([rows], learning_rate=1e-3).loss for rows in batches])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
