"""The mixture of branches: what goes forward, what comes back, and that a training graph does the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from t2tdeploy.models.shake_shake import Shake
from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from t2tdeploy.training.graph.masks import masks_as_inputs
from tests.training.graph.parity import BATCH, run

BITS = 16


def branches(batch: int = 4) -> tuple[Tensor, Tensor]:
    """All ones and all zeros: what is mixed is the share of the first."""
    first = torch.ones(batch, 2, 3, 3, requires_grad=True)
    return first, torch.zeros(batch, 2, 3, 3, requires_grad=True)


def shares(shake: Shake, batch: int = 4) -> tuple[Tensor, Tensor]:
    """[batch] each: the share of the first branch in the result, and in the gradient."""
    first, second = branches(batch)
    result = shake(first, second)
    result.sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad + second.grad, torch.ones_like(first))
    for of in (result, first.grad):  # one number for each image
        assert (of == of[:, :1, :1, :1]).all()
    return result[:, 0, 0, 0].detach(), first.grad[:, 0, 0, 0]


@pytest.mark.parametrize("mixing", itertools.product(("shake", "even"), ("shake", "even", "keep")))
def test_each_image_has_shares_of_its_own(mixing: tuple[str, str]) -> None:
    torch.manual_seed(0)
    forward, backward = shares(Shake(*mixing))
    assert (forward == 0.5).all() == (mixing[0] == "even")
    if mixing[1] == "keep":
        torch.testing.assert_close(forward, backward)
    else:
        assert (backward == 0.5).all() == (mixing[1] == "even")
    if mixing == ("shake", "shake"):
        assert len({*forward.tolist(), *backward.tolist()}) == 8


def test_shares_are_uniform() -> None:
    torch.manual_seed(0)
    for found in shares(Shake("shake", "shake"), batch=20_000):
        counts = np.histogram(found, bins=10, range=(0, 1))[0]
        assert ((counts > 1800) & (counts < 2200)).all()
        assert found.min() > 0
        assert found.max() < 1


def test_evaluation_mixes_evenly() -> None:
    forward, backward = shares(Shake("shake", "shake").eval())
    assert (forward == 0.5).all()
    assert (backward == 0.5).all()


class Mixture(nn.Module):
    """The loss weighs pixels, so that gradients differ from place to place."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.5, -0.5]))
        self.offset = nn.Parameter(torch.tensor([0.25, 2.0]))
        self.shake = Shake("shake", "shake")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.shake(x * self.scale.view(-1, 1, 1), (x * x + self.offset.view(-1, 1, 1)).sin())
        return (mixed * mixed).sum(), mixed


def test_a_training_graph_is_given_the_random_bits() -> None:
    """So it is reproducible as dropout is; with these bits, its results and gradients are the formula's."""
    torch.manual_seed(0)
    module = Mixture().train()
    example = torch.randn(5, 2, 3, 3)
    graph = joint_graph(module, (example,), [{0: BATCH}], GraphNames(("x",), ("loss", "mixed")))
    specs = masks_as_inputs(graph)
    assert [(spec.rate, spec.shape) for spec in specs] == [(0.5, ("batch", BITS))] * 2
    x = torch.randn(7, 2, 3, 3)
    bits = [torch.randint(0, 2, (7, BITS), dtype=torch.uint8) for _ in specs]
    own = [*module.named_parameters(), *module.named_buffers()]
    feed = {"x": x, **dict(own), **dict(zip([spec.name for spec in specs], bits, strict=True))}
    found = run(graph, {name: value.detach() for name, value in feed.items()})
    forward, backward = (share(one) for one in bits)

    first, second = x * module.scale.view(-1, 1, 1), (x * x + module.offset.view(-1, 1, 1)).sin()
    mixed = forward * first + (1 - forward) * second
    upstream = (2 * mixed).detach()
    ((backward * first + (1 - backward) * second) * upstream).sum().backward()
    np.testing.assert_allclose(found["mixed"], mixed.detach(), rtol=1e-4, atol=1e-5)
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(found[f"{name}.grad"], parameter.grad, rtol=1e-4, atol=1e-4)


def share(bits: Tensor) -> Tensor:
    """Of a number written in binary, and half a step."""
    return ((bits * 0.5 ** torch.arange(1, BITS + 1)).sum(1) + 0.5 ** (BITS + 1)).view(-1, 1, 1, 1)
