"""Random numbers of training graphs: their distribution, their axes, and that a run goes on with the same ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from t2tdeploy.training.engine import Batch, EngineState
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.graph.manifest import NoiseSpec
from t2tdeploy.training.noise import Noise
from tests.training.graph.small_model import HPARAMS, VOCAB, Small

CPU = torch.device("cpu")


class Noisy(Small):
    """Normal noise on what the body gives, and a random scale for each row."""

    def body(self, features: dict[str, Tensor]) -> Tensor:
        x = super().body(features)
        return x * torch.rand(x.size(0), 1, 1) + torch.randn_like(x) if self.training else x


def noisy_engine(seed: int) -> GradientEngine:
    model = Noisy()
    torch.manual_seed(seed)
    return make_engine("ort", model, HPARAMS, device=CPU)


def noise(seed: int = 1) -> Noise:
    specs = [
        NoiseSpec(name="u", distribution="uniform", shape=("2*batch", 50)),
        NoiseSpec(name="n", distribution="normal", shape=("batch", 40)),
    ]
    return Noise(specs, np.random.SFC64(seed), device=CPU)


def test_numbers_are_uniform_and_normal() -> None:
    drawn = noise().draw({"batch": 500})
    uniform, normal = (drawn[name].double() for name in ("u", "n"))
    assert {tensor.dtype for tensor in drawn.values()} == {torch.float32}
    assert ((uniform >= 0) & (uniform < 1)).all()
    for found, mean, deviation in ((uniform, 0.5, math.sqrt(1 / 12)), (normal, 0.0, 1.0)):
        assert abs(found.mean().item() - mean) < 4 * deviation / math.sqrt(found.numel())
        assert found.std().item() == pytest.approx(deviation, rel=0.03)
    assert (normal.abs() > 1).double().mean().item() == pytest.approx(0.3173, abs=0.015)
    assert (uniform > 0.9).double().mean().item() == pytest.approx(0.1, abs=0.01)


def test_shapes_follow_the_axes_and_small_batches_need_no_new_memory() -> None:
    of = noise()
    large = of.draw({"batch": 7})
    assert {name: tuple(tensor.shape) for name, tensor in large.items()} == {"u": (14, 50), "n": (7, 40)}
    small = of.draw({"batch": 1})
    assert {name: tuple(tensor.shape) for name, tensor in small.items()} == {"u": (2, 50), "n": (1, 40)}
    assert small["u"].data_ptr() == large["u"].data_ptr()


def test_a_graph_without_random_numbers_needs_none() -> None:
    assert Noise([], np.random.SFC64(1), device=CPU).draw({"batch": 7}) == {}


def rows(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    return {name: random.integers(2, VOCAB, (3, 4)) for name in ("inputs", "targets")}


def test_a_run_draws_other_numbers_for_every_batch_and_follows_its_seed() -> None:
    def losses(seed: int) -> list[float]:
        engine = noisy_engine(seed)
        return [engine.step([rows(0)], learning_rate=0.0).loss for _ in range(3)]

    found = {seed: losses(seed) for seed in (5, 6)}
    assert len({*itertools.chain(*found.values())}) == 6
    assert losses(5) == found[5]


def test_the_numbers_continue_from_a_state() -> None:
    engine, other = noisy_engine(5), noisy_engine(7)
    engine.step([rows(0)], learning_rate=0.1)
    state = EngineState(*({name: value.clone() for name, value in part.items()} for part in engine.state()))
    expected = [engine.step([rows(number)], learning_rate=0.1) for number in (1, 2)]
    other.load(state)
    assert [other.step([rows(number)], learning_rate=0.1) for number in (1, 2)] == expected


def test_evaluation_has_no_noise() -> None:
    assert noisy_engine(5).evaluate(rows(0)) == noisy_engine(6).evaluate(rows(0))
