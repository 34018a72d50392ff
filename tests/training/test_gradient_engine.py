"""Laws of a step, whichever engine computes it: accumulation, clipping, probing, evaluation, states."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from t2tdeploy.errors import InputError, TrainingError
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training import gradient_engine
from t2tdeploy.training.checkpoints import CheckpointStore, TrainingState
from t2tdeploy.training.engines import ENGINES
from t2tdeploy.training.parameters import tensors_from
from t2tdeploy.training.torch_engine import evaluation_sums

from .conftest import DROPOUT, NO_DROPOUT, batch, new_engine, parameters

of_every_engine = pytest.mark.parametrize("name", ENGINES)


@of_every_engine
def test_accumulated_batches_equal_their_union(data: ProblemData, name: str) -> None:
    apart, union = (new_engine(name, data, optimizer="sgd", **NO_DROPOUT) for _ in range(2))
    measured = apart.step([batch(data, 0), batch(data, 1, 2), batch(data, 3)], learning_rate=1.0)
    expected = union.step([batch(data, 0, 1, 2, 3)], learning_rate=1.0)
    assert measured.labels == expected.labels
    assert measured.loss == pytest.approx(expected.loss, abs=1e-6)
    assert measured.gradient_norm == pytest.approx(expected.gradient_norm, abs=1e-6)
    after = parameters(union)
    for parameter, tensor in parameters(apart).items():
        torch.testing.assert_close(tensor, after[parameter], rtol=0, atol=1e-6)


@of_every_engine
def test_a_batch_without_rows_adds_nothing(data: ProblemData, name: str) -> None:
    plain, padded = (new_engine(name, data, optimizer="sgd", **NO_DROPOUT) for _ in range(2))
    for rows in ((0, 1), (2,)):
        expected = plain.step([batch(data, *rows)], learning_rate=1.0)
        assert padded.step([batch(data), batch(data, *rows), batch(data)], learning_rate=1.0) == expected
    after = parameters(plain)
    assert all(torch.equal(tensor, after[parameter]) for parameter, tensor in parameters(padded).items())


@of_every_engine
def test_a_step_starts_from_gradients_of_zero(data: ProblemData, name: str) -> None:
    """Whatever the step before was: plain SGD without a rate goes back to the same norm."""
    engine = new_engine(name, data, optimizer="sgd", **NO_DROPOUT)
    first = engine.step([batch(data, 0, 1)], learning_rate=0.0)
    engine.step([batch(data, 2), batch(data, 3)], learning_rate=0.0)
    assert engine.step([batch(data, 0, 1)], learning_rate=0.0) == first


@of_every_engine
def test_clipping_bounds_the_update(data: ProblemData, name: str) -> None:
    clipped = new_engine(name, data, optimizer="sgd", clip_grad_norm=0.01, **NO_DROPOUT)
    before = parameters(clipped)
    measured = clipped.step([batch(data, 0, 1)], learning_rate=1.0)
    moved = math.sqrt(sum(float((tensor - before[key]).pow(2).sum()) for key, tensor in parameters(clipped).items()))
    assert measured.gradient_norm > 0.01
    assert moved == pytest.approx(0.01, rel=1e-3)


@of_every_engine
def test_evaluation_changes_nothing_and_knows_no_smoothing_and_no_dropout(data: ProblemData, name: str) -> None:
    unevaluated = new_engine(name, data, **DROPOUT).step([batch(data, 2)], learning_rate=0.01)
    evaluated = new_engine(name, data, **DROPOUT)
    sums = evaluated.evaluate(batch(data, 0, 1))
    labels = batch(data, 0, 1)["targets"]
    assert sums.labels == np.count_nonzero(labels)
    with torch.no_grad():
        logits = evaluated.model(tensors_from(batch(data, 0, 1), evaluated.device)).log_softmax(-1)
    expected = -sum(float(logits[row, at, label]) for (row, at), label in np.ndenumerate(labels) if label)
    assert sums.loss == pytest.approx(expected, rel=1e-5)
    assert evaluated.step([batch(data, 2)], learning_rate=0.01) == unevaluated


@of_every_engine
def test_evaluation_follows_the_parameters_and_is_torch_s(data: ProblemData, name: str) -> None:
    engine = new_engine(name, data, **DROPOUT)
    for step, rows in enumerate([(0, 1), (2,), (3, 4, 5, 6)]):
        engine.step([batch(data, *rows)], learning_rate=0.01)
        engine.model.eval()
        found, expected = engine.evaluate(batch(data, *rows)), evaluation_sums(engine.model, batch(data, *rows))
        assert found.loss == pytest.approx(expected.loss, rel=1e-5), step
        assert found[1:] == expected[1:]


@of_every_engine
def test_a_step_that_is_not_finite_leaves_the_parameters(data: ProblemData, name: str) -> None:
    broken = new_engine(name, data, **NO_DROPOUT)
    with torch.no_grad():
        broken.model.modality("targets").weight[5, 0] = math.inf
    before = parameters(broken)
    measured = broken.step([batch(data, 0)], learning_rate=0.1)
    assert not (math.isfinite(measured.loss) and math.isfinite(measured.gradient_norm))
    after = parameters(broken)
    assert all(torch.equal(after[key], before[key]) for key in before)


@of_every_engine
@pytest.mark.parametrize("optimizer", ["adam", "adafactor", "momentum", "adagrad"])
def test_a_probe_changes_nothing(data: ProblemData, name: str, optimizer: str) -> None:
    """Dropout masks included; before the first step and in the middle of a run."""
    plain, probed = (new_engine(name, data, optimizer=optimizer, **DROPOUT) for _ in range(2))
    torch.manual_seed(1)
    expected = [plain.step([batch(data, 0, 1)], learning_rate=0.01) for _ in range(3)]
    torch.manual_seed(1)
    found = []
    for _ in range(3):
        probed.probe([batch(data, 5, 6, 7)] * 2)
        found.append(probed.step([batch(data, 0, 1)], learning_rate=0.01))
    assert found == expected
    for mine, theirs in zip(probed.state(), plain.state(), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@of_every_engine
@pytest.mark.parametrize("changes", [NO_DROPOUT, DROPOUT], ids=["exact", "dropout"])
def test_a_state_goes_through_files_and_continues_bit_for_bit(
    data: ProblemData, tmp_path: Path, name: str, changes: dict[str, object]
) -> None:
    first = new_engine(name, data, **changes)
    first.step([batch(data, 0, 1)], learning_rate=0.01)
    store = CheckpointStore(tmp_path)
    store.save(first.state(), TrainingState(step=1, epoch=0, batch=1))
    rows = ((2, 3), (4,), (5, 6, 7))
    expected = [first.step([batch(data, *row)], learning_rate=0.01) for row in rows]
    second = new_engine(name, data, **changes)
    second.step([batch(data, 8)], learning_rate=0.5)  # what it was before does not matter
    second.load(store.load(1)[0])
    assert [second.step([batch(data, *row)], learning_rate=0.01) for row in rows] == expected
    after = parameters(first)
    assert all(torch.equal(tensor, after[key]) for key, tensor in parameters(second).items())


@of_every_engine
def test_a_checkpoint_of_another_model_is_refused(data: ProblemData, name: str) -> None:
    state = new_engine("torch", data, hidden_size=32).state()
    with pytest.raises(InputError, match="another model"):
        new_engine(name, data, **NO_DROPOUT).load(state)


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
