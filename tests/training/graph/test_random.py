"""Random numbers of training graphs are inputs, each draw another, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.errors import DifferentiationError
from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from t2tdeploy.training.graph.manifest import NoiseSpec
from t2tdeploy.training.graph.masks import masks_as_inputs
from t2tdeploy.training.graph.noise import noise_as_inputs
from t2tdeploy.training.noise import Noise
from tests.training.graph.parity import BATCH, run

Function = Callable[[Tensor], Tensor]


class Noisy(nn.Module):
    """A function of x [batch, 4, 3], with a parameter in front of it."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.scale, self.function = nn.Parameter(torch.ones(3)), function

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.function(x * self.scale)
        return y.square().sum(), y


def graph(function: Function) -> tuple[ModelProto, list[Any]]:
    module = nn.Sequential(Noisy(function))
    made = joint_graph(module, [torch.ones(2, 4, 3)], [{0: BATCH}], GraphNames(("x",), ("loss", "y")))
    specs = masks_as_inputs(made)
    noise = noise_as_inputs(made)
    onnx.checker.check_model(made)
    assert not {node.op_type for node in made.graph.node} & {"Dropout", "Bernoulli", "RandomUniformLike"}
    return made, [*specs, *noise]


def drawn(specs: list[Any], batch: int, seed: int = 1) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {spec.name: [batch if axis == "batch" else int(axis) for axis in spec.shape] for spec in specs}
    return {name: torch.randint(0, 2, shape, generator=random, dtype=torch.uint8) for name, shape in shapes.items()}


def test_a_draw_with_one_chance_for_all_is_a_mask_forward_and_backward() -> None:
    made, (spec,) = graph(lambda x: x * torch.empty_like(x).bernoulli_(0.75) / 0.75)
    assert (spec.rate, spec.shape) == (0.25, ("batch", 4, 3))
    x, masks = torch.randn(5, 4, 3), drawn([spec], 5)
    found = run(made, {"x": x, "0.scale": torch.ones(3), **masks})
    y = x * masks[spec.name] / 0.75
    np.testing.assert_allclose(found["y"], y, rtol=1e-5)
    np.testing.assert_allclose(found["0.scale.grad"], 2 * y.square().sum((0, 1)), rtol=1e-5)


def test_alpha_dropout_is_drawn_from_a_mask() -> None:
    made, (spec,) = graph(lambda x: F.alpha_dropout(x, 0.25, training=True))
    feed = {"x": torch.randn(5, 4, 3), "0.scale": torch.ones(3)}
    first, same, other = (run(made, {**feed, **drawn([spec], 5, seed)})["y"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_two_equal_draws_are_two_masks() -> None:
    made, specs = graph(lambda x: x * (torch.empty_like(x).bernoulli_(0.5) - torch.empty_like(x).bernoulli_(0.5)))
    assert [spec.rate for spec in specs] == [0.5, 0.5]
    masks = drawn(specs, 5)
    x = torch.randn(5, 4, 3)
    first, second = (masks[spec.name].float() for spec in specs)
    found = run(made, {"x": x, "0.scale": torch.ones(3), **masks})["y"]
    np.testing.assert_array_equal(found, x * (first - second))


def test_noise_of_a_known_shape_is_not_drawn_once_for_all() -> None:
    _, (spec,) = graph(lambda x: x * torch.empty(4, 3).bernoulli_(0.5))
    assert spec.shape == (4, 3)
    _, (spec,) = graph(lambda x: x * F.dropout(torch.ones(4, 3)))
    assert spec.shape == (4, 3)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_what_is_certain_needs_no_mask(chance: float) -> None:
    made, specs = graph(lambda x: x * torch.empty_like(x).bernoulli_(chance))
    assert not specs
    x = torch.randn(5, 4, 3)
    np.testing.assert_array_equal(run(made, {"x": x, "0.scale": torch.ones(3)})["y"], x * chance)


def one_noise(function: Function) -> tuple[Callable[[Tensor, Tensor], dict[str, Any]], NoiseSpec]:
    """A run of the graph on (x, noise), and what its noise is."""
    made, (spec,) = graph(function)
    return lambda x, noise: run(made, {"x": x, "0.scale": torch.ones(3), spec.name: noise}), spec


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        pytest.param(lambda x: x + torch.rand_like(x), lambda x, u: x + u, id="rand_like"),
        pytest.param(lambda x: x * torch.rand(x.shape), lambda x, u: x * u, id="rand"),
        pytest.param(lambda x: x * torch.empty_like(x).uniform_(2, 5), lambda x, u: x * (2 + 3 * u), id="uniform_"),
        pytest.param(
            lambda x: x * torch.bernoulli(x.detach().sigmoid()), lambda x, u: x * (u < x.sigmoid()), id="bernoulli"
        ),
        pytest.param(
            lambda x: x - torch.empty_like(x).exponential_(2.0).log(),
            lambda x, u: x - (-(1 - u).log() / 2).log(),
            id="exponential_",
        ),
        pytest.param(
            lambda x: x * torch.rand_like(x, dtype=torch.float64).float(), lambda x, u: x * u, id="another type"
        ),
    ],
)
def test_uniform_numbers_are_an_input(function: Function, expected: Callable[[Tensor, Tensor], Tensor]) -> None:
    compute, spec = one_noise(function)
    assert (spec.distribution, spec.shape) == ("uniform", ("batch", 4, 3))
    x, noise = torch.randn(5, 4, 3), torch.rand(5, 4, 3).clamp_min(0.01)
    np.testing.assert_allclose(compute(x, noise)["y"], expected(x, noise), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        pytest.param(lambda x: x + torch.randn_like(x), lambda x, n: x + n, id="randn_like"),
        pytest.param(lambda x: x * torch.randn(x.shape), lambda x, n: x * n, id="randn"),
        pytest.param(lambda x: x * torch.empty_like(x).normal_(3, 2), lambda x, n: x * (3 + 2 * n), id="normal_"),
    ],
)
def test_normal_numbers_are_an_input(function: Function, expected: Callable[[Tensor, Tensor], Tensor]) -> None:
    compute, spec = one_noise(function)
    assert (spec.distribution, spec.shape) == ("normal", ("batch", 4, 3))
    x, noise = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    np.testing.assert_allclose(compute(x, noise)["y"], expected(x, noise), rtol=1e-4, atol=1e-5)


def test_gradients_see_the_noise_that_the_forward_pass_saw() -> None:
    compute, _ = one_noise(lambda x: x * torch.randn_like(x))
    x, noise = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    np.testing.assert_allclose(compute(x, noise)["0.scale.grad"], 2 * (x * noise).square().sum((0, 1)), rtol=1e-4)


def test_gumbel_noise_is_finite() -> None:
    compute, _ = one_noise(lambda x: F.gumbel_softmax(x))
    for noise in (torch.zeros(5, 4, 3), torch.full((5, 4, 3), 1 - 2.0**-24)):
        assert np.isfinite(compute(torch.randn(5, 4, 3), noise)["y"]).all()


def test_equal_draws_are_different_numbers_and_other_axes_are_followed() -> None:
    made, specs = graph(lambda x: x * torch.rand_like(x) + torch.rand_like(x) + torch.randn(2 * x.size(0), 3).sum(0))
    assert [spec.shape for spec in specs] == [("batch", 4, 3), ("batch", 4, 3), ("2*batch", 3)]
    noise = Noise(specs, np.random.SFC64(1), device=torch.device("cpu")).draw({"batch": 5})
    x = torch.randn(5, 4, 3)
    one, two, rows = noise.values()
    found = run(made, {"x": x, "0.scale": torch.ones(3), **noise})["y"]
    np.testing.assert_allclose(found, x * one + two + rows.sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        pytest.param(lambda x: x * torch.randint(0, 5, x.shape), "aten.randint.low", id="randint"),
        pytest.param(lambda x: x[torch.randperm(x.size(0))], "aten.randperm.default", id="randperm"),
        pytest.param(lambda x: x + torch.poisson(x.detach().abs()), "aten.poisson.default", id="poisson"),
        pytest.param(
            lambda x: x + torch.normal(x.detach(), x.detach().abs()), "aten.normal.Tensor_Tensor", id="normal"
        ),
    ],
)
def test_other_random_numbers_are_refused(function: Function, operator: str) -> None:
    with pytest.raises(DifferentiationError, match="random numbers that a resumed run draws again") as caught:
        graph(function)
    assert (caught.value.operator, caught.value.module_path) == (operator, "0")
    assert "--engine torch" in str(caught.value.help)
