"""A batch in two parts is the same batch: its rows, its loss, its gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from t2tdeploy.errors import OperationalError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_encoder import TransformerEncoder
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.registry import hparams_sets
from t2tdeploy.training.engine import EngineState
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.lanes import MIN_ROWS, Lane, divided, shares_of
from t2tdeploy.training.ort_engine import OrtEngine

from .conftest import DROPOUT, NO_DROPOUT, batch, new_engine, parameters


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 3, 4, 9, 64])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_parts_have_the_rows_of_the_batch(rows: int, threads: int) -> None:
    """Each about as many as it has of the threads, of which none is left over."""
    whole = {"inputs": np.arange(rows * 3).reshape(rows, 3), "label": np.arange(rows)}
    shares = shares_of(threads)
    assert sum(shares) == threads
    parts = divided(whole, shares)
    counts = [len(part["label"]) for part in parts]
    if rows < MIN_ROWS:
        assert counts == [rows]
    else:
        assert sum(counts) == rows
        for count, share in zip(counts, shares, strict=True):
            assert count == pytest.approx(rows * share / threads, abs=1)
    for name, array in whole.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), array)
        assert all(part[name].flags.c_contiguous for part in parts)


def lanes_of(engine: GradientEngine) -> list[Lane]:
    assert isinstance(engine, OrtEngine)
    return engine._lanes


def lanes(engine: GradientEngine) -> int:
    return len(lanes_of(engine))


def test_two_lanes_train_as_one_does(data: ProblemData) -> None:
    """The same steps, batches accumulated among them, with one thread, which has one lane, and with two."""
    found = {}
    for count in (1, 2):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        engine = new_engine("ort", data, clip_grad_norm=1.0, **NO_DROPOUT)
        assert lanes(engine) == count
        losses = []
        for first in range(0, 18, 6):
            rows = range(first, first + 6)
            losses.append(engine.step([batch(data, *rows)], learning_rate=0.01).loss)
            losses.append(engine.step([batch(data, *rows), batch(data, first)], learning_rate=0.01).loss)
        found[count] = losses, parameters(engine)
    assert found[2][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, value in found[1][1].items():
        torch.testing.assert_close(found[2][1][name], value, rtol=1e-3, atol=1e-5)


def test_a_run_continues_with_other_threads(data: ProblemData, threads: int) -> None:
    """Masks go on bit for bit with as many lanes as before, and somehow with other ones."""
    rows = [batch(data, *range(8))]
    first = new_engine("ort", data, **DROPOUT)
    first.step(rows, learning_rate=0.1)
    state = EngineState(*({name: value.clone() for name, value in part.items()} for part in first.state()))
    expected = [first.step(rows, learning_rate=0.1) for _ in range(2)]
    first.load(state)
    assert [first.step(rows, learning_rate=0.1) for _ in range(2)] == expected
    torch.set_num_threads(3 - threads)
    other = new_engine("ort", data, **DROPOUT)
    other.load(state)
    assert lanes(other) == 3 - threads
    assert other.step(rows, learning_rate=0.1).loss == pytest.approx(expected[0].loss, rel=0.2)


def test_two_lanes_of_an_encoder_train_as_one_does() -> None:
    features = {
        "inputs": FeatureSpec("inputs", Modality.SYMBOL, "inputs", 50),
        "targets": FeatureSpec("targets", Modality.CLASS_LABEL, classes=("a", "b", "c")),
    }
    hparams = hparams_sets.get("transformer_encoder_tiny")().replace(hidden_size=16, filter_size=32, **NO_DROPOUT)
    draw = np.random.default_rng(0)
    ids = np.where(np.arange(7) < draw.integers(1, 8, (9, 1)), draw.integers(2, 50, (9, 7)), 0)
    rows = {"inputs": ids, "targets": draw.integers(0, 3, 9)}
    found = {}
    for count in (1, 2):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        model = TransformerEncoder(hparams, features)
        engine = make_engine("ort", model, hparams, device=torch.device("cpu"))
        assert lanes(engine) == count
        losses = [engine.step([rows], learning_rate=0.01).loss for _ in range(3)]
        found[count] = losses, parameters(engine)
    assert found[2][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, value in found[1][1].items():
        torch.testing.assert_close(found[2][1][name], value, rtol=1e-3, atol=1e-5)


def test_only_models_that_say_so_are_divided(data: ProblemData, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    assert lanes(new_engine("ort", data, **NO_DROPOUT)) == 2
    monkeypatch.delattr(Transformer, "independent_rows")
    assert lanes(new_engine("ort", data, **NO_DROPOUT)) == 1


@pytest.mark.parametrize("without", [slice(None, 3), slice(3, None)])
def test_a_part_without_labels_counts_for_nothing(data: ProblemData, without: slice) -> None:
    found = {}
    for count in (1, 2):
        torch.set_num_threads(count)
        rows = {name: array.copy() for name, array in batch(data, *range(6)).items()}
        rows["targets"][without] = 0
        engine = new_engine("ort", data, **NO_DROPOUT)
        assert lanes(engine) == count
        stats = engine.step([rows], learning_rate=0.01)
        found[count] = stats.loss, stats.gradient_norm
    assert found[2] == pytest.approx(found[1], rel=1e-5)


def test_an_error_of_the_second_part_is_told_and_the_next_step_is_whole(
    data: ProblemData, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    rows = [batch(data, *range(6))]
    expected = new_engine("ort", data, **NO_DROPOUT).step(rows, learning_rate=0.01)
    engine = new_engine("ort", data, **NO_DROPOUT)

    def fail(*_: object) -> torch.Tensor:
        raise OperationalError("the second lane broke")

    with monkeypatch.context() as patched:
        patched.setattr(lanes_of(engine)[1], "run", fail)
        with pytest.raises(OperationalError, match="the second lane broke"):
            engine.step(rows, learning_rate=0.01)
    assert engine.step(rows, learning_rate=0.01).loss == expected.loss


def test_lanes_draw_masks_of_their_own(data: ProblemData) -> None:
    """From the start, and however a state was loaded."""

    def differ(engine: GradientEngine) -> bool:
        first, second = (lane.masks.state() for lane in lanes_of(engine))
        return not torch.equal(first, second)

    torch.set_num_threads(1)
    single = new_engine("ort", data, **DROPOUT)
    single.step([batch(data, *range(6))], learning_rate=0.01)
    torch.set_num_threads(2)
    engine = new_engine("ort", data, **DROPOUT)
    assert differ(engine)
    engine.step([batch(data, *range(6))], learning_rate=0.01)
    assert differ(engine)
    for of in (engine, single):
        other = new_engine("ort", data, **DROPOUT)
        other.load(of.state())
        assert differ(other)
