"""The loss scale of float16: it only changes what would be lost, and an overflow costs one step and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.engine import EngineState
from t2tdeploy.training.engines import ENGINES
from t2tdeploy.training.loss_scale import GROW_AFTER_STEPS, LARGEST, START, LossScale
from t2tdeploy.training.meter import Meter
from t2tdeploy.training.options import TrainOptions
from t2tdeploy.training.trainer import train

from .conftest import NO_DROPOUT, batch, make_run, new_engine, parameters

of_every_engine = pytest.mark.parametrize("name", ENGINES)
TOO_LARGE = 2.0**40  # every gradient overflows


def test_it_halves_on_overflow_and_doubles_after_many_good_steps() -> None:
    scale = LossScale(dynamic=True)
    assert scale.overflowed()
    assert scale.value == START / 2
    for _ in range(GROW_AFTER_STEPS - 1):
        scale.succeeded()
    assert scale.value == START / 2
    scale.succeeded()
    assert scale.value == START
    for _ in range(GROW_AFTER_STEPS * 40):
        scale.succeeded()
    assert scale.value == LARGEST


def test_an_overflow_begins_the_count_anew_and_ends_at_one() -> None:
    scale = LossScale(dynamic=True)
    for _ in range(GROW_AFTER_STEPS - 1):
        scale.succeeded()
    assert scale.overflowed()
    scale.succeeded()
    assert scale.value == START / 2
    while scale.value > 1.0:
        assert scale.overflowed()
    assert not scale.overflowed()


def test_it_continues_from_its_state() -> None:
    scale, resumed = LossScale(dynamic=True), LossScale(dynamic=True)
    scale.overflowed()
    for _ in range(GROW_AFTER_STEPS - 1):
        scale.succeeded()
    resumed.load(scale.state())
    resumed.succeeded()
    assert resumed.value == START


def test_without_float16_it_is_one_for_good() -> None:
    scale = LossScale(dynamic=False)
    for _ in range(GROW_AFTER_STEPS):
        scale.succeeded()
    assert (scale.value, scale.overflowed(), scale.state()) == (1.0, False, {})


@of_every_engine
def test_half_precision_follows_full_precision(data: ProblemData, name: str) -> None:
    low, full = (new_engine(name, data, precision=kind, **NO_DROPOUT) for kind in ("float16", "float32"))
    for i in range(12):
        rows = [batch(data, *range(4 * i, 4 * i + 3)), batch(data, 4 * i + 3)]
        found, expected = (made.step(rows, learning_rate=1e-3) for made in (low, full))
        assert not found.skipped
        assert found.loss == pytest.approx(expected.loss, rel=2e-3)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=2e-2)


@of_every_engine
def test_the_scale_leaves_gradients_as_they_are(data: ProblemData, name: str) -> None:
    """Up to float16's rounding, which a power of two does not change where nothing underflows."""
    engines = [new_engine(name, data, optimizer="sgd", precision="float16", **NO_DROPOUT) for _ in range(2)]
    engines[1]._loss_scale.value = START / 16
    norms = [engine.step([batch(data, 0, 1, 2)], learning_rate=1.0).gradient_norm for engine in engines]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@of_every_engine
def test_an_overflow_skips_the_step_and_halves_the_scale(data: ProblemData, name: str) -> None:
    engine = new_engine(name, data, precision="float16", **NO_DROPOUT)
    before, rows = parameters(engine), [batch(data, 0, 1)]
    engine._loss_scale.value = TOO_LARGE
    metrics = engine.step(rows, learning_rate=0.1)
    assert metrics.skipped
    assert math.isfinite(metrics.loss)
    assert engine._loss_scale.value == TOO_LARGE / 2
    assert all(torch.equal(value, before[key]) for key, value in parameters(engine).items())
    engine._loss_scale.value = START
    assert not engine.step(rows, learning_rate=0.1).skipped
    assert any(not torch.equal(value, before[key]) for key, value in parameters(engine).items())


@of_every_engine
def test_the_scale_is_part_of_the_state_and_a_probe_leaves_it(data: ProblemData, name: str) -> None:
    engine, other = (new_engine(name, data, precision="float16", **NO_DROPOUT) for _ in range(2))
    engine._loss_scale.value = TOO_LARGE
    engine.probe([batch(data, 0)])
    assert engine._loss_scale.value == TOO_LARGE
    engine.step([batch(data, 0)], learning_rate=0.1)
    other.load(EngineState(*({key: value.clone() for key, value in part.items()} for part in engine.state())))
    assert other._loss_scale.value == TOO_LARGE / 2


def test_a_state_of_another_precision_loads(data: ProblemData) -> None:
    low, full = (new_engine("torch", data, precision=kind, **NO_DROPOUT) for kind in ("float16", "float32"))
    full.load(low.state())
    low.load(full.state())
    assert (full._loss_scale.value, low._loss_scale.value) == (1.0, START)


def test_the_meter_counts_skipped_steps_and_leaves_their_norm_out(data: ProblemData) -> None:
    engine, meter = new_engine("torch", data, precision="float16", **NO_DROPOUT), Meter(data.features)
    rows = [batch(data, 0, 1)]
    engine._loss_scale.value = TOO_LARGE
    meter.add(rows, engine.step(rows, learning_rate=0.0))
    engine._loss_scale.value = START
    good = engine.step(rows, learning_rate=0.0)
    meter.add(rows, good)
    values = meter.flush()
    assert (values["skipped_steps"], values["gradient_norm"]) == (1, good.gradient_norm)


@of_every_engine
def test_training_goes_on_over_an_overflow(
    data: ProblemData, data_dir: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2tdeploy.training.loss_scale.START", TOO_LARGE)
    run = make_run(tmp_path / "run", data, data_dir, precision="float16", train_steps=4, **NO_DROPOUT)
    options = TrainOptions(engine=name, eval_every_steps=4, save_every_steps=4, log_every_steps=1, decode=False)
    assert train(run, data, options).step == 4
