"""Both engines are one: losses, gradients, curves and checkpoints, for every model and gradient builder there is here.

These tests also run where onnxruntime-training is installed, which has another gradient builder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from t2tdeploy import registry
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.training.checkpoints import CheckpointStore, TrainingState
from t2tdeploy.training.engine import Batch, StepMetrics
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.graph.environment import gradient_builders
from t2tdeploy.training.optimizers import OPTIMIZERS
from tests.models.labelled import CASES
from tests.models.tiny import HPARAMS, features

from .conftest import NO_DROPOUT
from .graph.small_model import HPARAMS as SMALL
from .graph.small_model import Small

VOCAB = 40
TRANSFORMER = HPARAMS.replace(num_encoder_layers=1, num_decoder_layers=1, **NO_DROPOUT)
# Every registered model from text to text in a small size without dropout, and one that has what those lack;
# test_fixed_outputs.py has the other models.
MODELS: dict[str, Callable[[HParams], Model]] = {
    "transformer": lambda hparams: registry.models.get("transformer")(hparams, features(VOCAB, joint=False)),
    "small": lambda _: Small(),
}
SIZES = {"transformer": TRANSFORMER, "small": SMALL}
of_every_builder = pytest.mark.parametrize("builder", gradient_builders())


def engine(name: str, model: str = "transformer", builder: str = "auto", **changes: object) -> GradientEngine:
    hparams = SIZES[model].replace(**changes)
    torch.manual_seed(1)
    made = MODELS[model](hparams)
    return make_engine(name, made, hparams, device=torch.device("cpu"), gradient_builder=builder)


def batch(seed: int, rows: int, source: int, target: int) -> Batch:
    """Random rows of at most these lengths, the first one full, padded."""
    random = np.random.default_rng(seed)
    made = {}
    for name, length in (("inputs", source), ("targets", target)):
        ids = random.integers(1, 20, (rows, length))
        ends = np.append(length, random.integers(1, length + 1, rows - 1))
        made[name] = ids * (np.arange(length) < ends[:, None])
    return made


BATCHES = [batch(1, 7, 9, 8), batch(2, 1, 1, 1), batch(3, 3, 2, 12), batch(4, 16, 5, 1)]


def gradients(engine: GradientEngine, batches: list[Batch]) -> dict[str, Tensor]:
    """Of the mean loss: what plain SGD of rate 1 takes away."""
    before = {name: value.detach().clone() for name, value in engine.model.named_parameters()}
    engine.step(batches, learning_rate=1.0)
    found = {name: before[name] - value.detach() for name, value in engine.model.named_parameters()}
    with torch.no_grad():
        for name, value in engine.model.named_parameters():
            value.copy_(before[name])
    return found


def test_every_registered_model_is_compared() -> None:
    modules = {name: registry.models.get(name).__module__ for name in registry.models.names()}
    built_in = {name for name, module in modules.items() if module.startswith("t2tdeploy.")}
    assert built_in <= MODELS.keys() | CASES.keys()


@of_every_builder
@pytest.mark.parametrize("model", MODELS)
def test_losses_and_gradients_are_torch_s(model: str, builder: str) -> None:
    """Batches of many shapes, one by one and accumulated, with pads and label smoothing."""
    ort, torch_engine = engine("ort", model, builder, optimizer="sgd"), engine("torch", model, optimizer="sgd")
    # Of a single token there is no variance, which batch normalization needs.
    usable = [one for one in BATCHES if model != "small" or one["targets"].size > 1]
    for batches in (*([one] for one in usable), usable[:2], usable):
        found, expected = (of.step(batches, learning_rate=0.0) for of in (ort, torch_engine))
        assert found.labels == expected.labels
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-4)
        assert_same_gradients(gradients(ort, batches), gradients(torch_engine, batches))
    for mine, theirs in zip(ort.model.buffers(), torch_engine.model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 1e-4 of each gradient's norm; where the true one is zero, to what float32 leaves of 1."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        distance = (found[name] - value).norm().item()
        assert distance <= max(1e-4 * value.norm().item(), 1e-6), name


@of_every_builder
def test_evaluations_are_torch_s(builder: str) -> None:
    ort, torch_engine = engine("ort", builder=builder), engine("torch")
    for one in BATCHES:
        found, expected = ort.evaluate(one), torch_engine.evaluate(one)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert found[1:] == expected[1:]


def curve(engine: GradientEngine, steps: range) -> list[StepMetrics]:
    """Batches of random shapes, a function of the step; two are accumulated at every fourth."""
    metrics = []
    for step in steps:
        shape = np.random.default_rng(step).integers([2, 2, 2], [9, 10, 10])
        batches = [batch(step, *shape), batch(1000 + step, *shape[::-1])][: 1 + (step % 4 == 0)]
        metrics.append(engine.step(batches, learning_rate=1e-3 * min(1.0, step / 20)))
    return metrics


def assert_same_curves(found: list[StepMetrics], expected: list[StepMetrics], *, rel: float) -> None:
    assert [step.labels for step in found] == [step.labels for step in expected]
    assert [step.loss for step in found] == pytest.approx([step.loss for step in expected], rel=rel)
    assert [step.gradient_norm for step in found] == pytest.approx(
        [step.gradient_norm for step in expected], rel=10 * rel
    )


@of_every_builder
def test_both_engines_follow_the_same_curve_for_200_steps(builder: str) -> None:
    """Adam and clipping; rounding differs, and grows a little on the way."""
    found, expected = (
        curve(engine(name, builder=builder, clip_grad_norm=1.0), range(200)) for name in ("ort", "torch")
    )
    assert_same_curves(found, expected, rel=1e-4)
    assert np.mean([step.loss for step in expected[-20:]]) < 0.95 * expected[0].loss


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_takes_the_same_steps(optimizer: str) -> None:
    found, expected = (curve(engine(name, optimizer=optimizer), range(8)) for name in ("ort", "torch"))
    assert_same_curves(found, expected, rel=1e-5)


@pytest.mark.parametrize(("first", "second"), [("ort", "torch"), ("torch", "ort")])
def test_a_checkpoint_of_one_engine_continues_in_the_other(first: str, second: str, tmp_path: Path) -> None:
    started = engine(first)
    curve(started, range(5))
    store = CheckpointStore(tmp_path)
    store.save(started.state(), TrainingState(step=5, epoch=0, batch=5))
    continued = engine(second)
    curve(continued, range(2))
    continued.load(store.load(5)[0])
    assert_same_curves(curve(continued, range(5, 15)), curve(started, range(5, 15)), rel=1e-5)
