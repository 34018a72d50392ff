"""Every update rule descends, follows the schedule, and continues from its saved state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from t2tdeploy.errors import SettingsError
from t2tdeploy.hparams import HParams
from t2tdeploy.training.optimizers import (
    OPTIMIZERS,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    set_learning_rate,
)

RATES = {"adam": 0.1, "adamw": 0.1, "adafactor": 0.1, "momentum": 0.02, "sgd": 0.1, "adagrad": 0.5}
GOAL = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


def quadratic(point: Tensor) -> Tensor:
    return (point - GOAL).pow(2).sum()


def descend(optimizer: torch.optim.Optimizer, point: nn.Parameter, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(quadratic(point))
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_descends_a_quadratic(name: str) -> None:
    point = nn.Parameter(torch.ones(2, 2))  # Adafactor's steps are in proportion to the parameter
    optimizer = make_optimizer([point], HParams(optimizer=name))
    set_learning_rate(optimizer, RATES[name])
    before = quadratic(point).item()
    descend(optimizer, point, 60)
    assert quadratic(point).item() < 0.2 * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_continues_from_its_state(name: str) -> None:
    hparams = HParams(optimizer=name)
    point = nn.Parameter(torch.ones(2, 2))
    first = make_optimizer([point], hparams)
    set_learning_rate(first, RATES[name])
    descend(first, point, 5)
    saved = {key: value.clone() for key, value in optimizer_state(first, {point: "point"}).items()}
    copy = nn.Parameter(point.detach().clone())
    descend(first, point, 5)

    second = make_optimizer([copy], hparams)
    load_optimizer_state(second, {copy: "point"}, saved)
    set_learning_rate(second, RATES[name])
    descend(second, copy, 5)
    assert torch.equal(copy, point)
    assert all(key.startswith("point/") for key in saved)


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("shape", [(64, 32), (64,)])
def test_the_first_step_of_adafactor_is_that_of_its_paper(shape: tuple[int, ...], scale: float) -> None:
    """Shazeer and Stern 2018, algorithms 4 and 5; rows of rare words have a hundredth of the gradient of others."""
    drawn = torch.Generator().manual_seed(0)
    rarity = torch.logspace(0, -2, 64).reshape(64, *[1] * (len(shape) - 1))
    before = 0.05 * torch.randn(shape, generator=drawn)
    gradient = scale * rarity * torch.randn(shape, generator=drawn)
    point = nn.Parameter(before.clone())
    optimizer = make_optimizer([point], HParams(optimizer="adafactor"))
    set_learning_rate(optimizer, 0.01)
    point.grad = gradient.clone()
    optimizer.step()

    squares = gradient.double() ** 2 + 1e-30
    if squares.dim() > 1:
        squares = squares.mean(1, keepdim=True) * squares.mean(0, keepdim=True) / squares.mean()
    update = gradient.double() / squares.sqrt()
    update /= max(1.0, update.square().mean().sqrt().item())
    step = 0.01 * max(1e-3, before.double().square().mean().sqrt().item()) * update
    torch.testing.assert_close(before - point.detach(), step.float(), rtol=1e-3, atol=1e-7)


def test_momentum_may_be_none_at_all() -> None:
    points = []
    for settings in ({"optimizer": "momentum", "optimizer_momentum": 0.0}, {"optimizer": "sgd"}):
        points.append(nn.Parameter(torch.ones(2, 2)))
        optimizer = make_optimizer(points[-1:], HParams.create(settings))
        set_learning_rate(optimizer, 0.1)
        descend(optimizer, points[-1], 3)
    assert torch.equal(*points)


def test_no_step_without_a_learning_rate() -> None:
    point = nn.Parameter(torch.zeros(2, 2))
    descend(make_optimizer([point], HParams(optimizer="sgd")), point, 3)
    assert torch.equal(point, torch.zeros(2, 2))


def test_weight_decay_shrinks_parameters_without_gradient() -> None:
    point = nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([point], HParams(optimizer="adamw", weight_decay=0.1))
    set_learning_rate(optimizer, 0.5)
    point.grad = torch.zeros(3)
    optimizer.step()
    assert torch.allclose(point, torch.full((3,), 0.95))


def moved(name: str, weight_decay: float) -> Tensor:
    """A point after one step with gradients that differ, so that no rule normalizes the decay away."""
    point = nn.Parameter(torch.full((2, 2), 3.0))
    optimizer = make_optimizer([point], HParams.create({"optimizer": name, "weight_decay": weight_decay}))
    set_learning_rate(optimizer, 0.1)
    point.grad = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    optimizer.step()
    return point.detach()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_acts_or_is_refused(name: str) -> None:
    if name in ("adam", "adagrad"):
        with pytest.raises(SettingsError, match="adamw, adafactor, momentum, sgd"):
            moved(name, 0.5)
    else:
        assert not torch.equal(moved(name, 0.5), moved(name, 0.0))
