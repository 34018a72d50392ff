"""A batch in two halves is the same batch: its rows, its loss, its gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_encoder import TransformerEncoder
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.registry import hparams_sets
from t2tdeploy.training.engine import EngineState
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.lanes import MIN_ROWS, halves
from t2tdeploy.training.ort_engine import OrtEngine

from .conftest import DROPOUT, NO_DROPOUT, batch, new_engine, parameters


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_halves_have_the_rows_of_the_batch(rows: int) -> None:
    whole = {"inputs": np.arange(rows * 3).reshape(rows, 3), "label": np.arange(rows)}
    parts = halves(whole)
    assert [len(part["label"]) for part in parts] == ([rows] if rows < MIN_ROWS else [rows // 2, rows - rows // 2])
    for name, array in whole.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), array)
        assert all(part[name].flags.c_contiguous for part in parts)


def lanes(engine: GradientEngine) -> int:
    assert isinstance(engine, OrtEngine)
    return len(engine._lanes)


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
