"""A gradient that a model makes or changes itself is refused by name, and never forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2tdeploy.errors import DifferentiationError
from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from t2tdeploy.training.graph.obtain import obtain_training_graph
from tests.training.graph.parity import BATCH, StraightThrough, assert_parity
from tests.training.graph.small_model import HPARAMS, Small


class Loss(nn.Module):
    """The sum of what a function makes of a layer's result."""

    def __init__(self, function: Callable[[Tensor], Tensor] = torch.sin) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.function = function

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.function(self.inner(x)).sum(),)


def turned(gradient: Tensor) -> Tensor:
    return -gradient


def with_hook(x: Tensor) -> Tensor:
    y = x * 2
    y.register_hook(turned)
    return y


def build(module: nn.Module) -> None:
    joint_graph(module, (torch.randn(3, 4),), [{0: BATCH}], GraphNames(("x",), ("loss",)))


def hooked(add: Callable[[nn.Sequential], object]) -> Loss:
    module = Loss()
    add(module.inner)
    return module


@pytest.mark.parametrize(
    ("module", "words", "path"),
    [
        (Loss(StraightThrough.apply), "StraightThrough", None),
        (Loss(lambda x: StraightThrough.apply(x)), "StraightThrough", None),
        (Loss(with_hook), "a tensor has a hook on gradients", None),
        (hooked(lambda part: part[0].weight.register_hook(turned)), "the parameter inner.0.weight has a hook", None),
        (
            hooked(lambda part: part[0].bias.register_post_accumulate_grad_hook(lambda parameter: None)),
            "the parameter inner.0.bias has a hook",
            None,
        ),
        (
            hooked(lambda part: part[1].register_full_backward_hook(lambda *given: None)),
            "a module has a hook",
            "inner.1",
        ),
        (
            hooked(lambda part: part.register_full_backward_pre_hook(lambda *given: None)),
            "a module has a hook",
            "inner",
        ),
    ],
    ids=["kept", "function", "tensor", "parameter", "accumulated", "module", "before"],
)
def test_it_is_refused(module: Loss, words: str, path: str | None) -> None:
    with pytest.raises(DifferentiationError, match=words) as caught:
        build(module)
    assert caught.value.module_path == path
    assert "--engine torch" in str(caught.value.help)


class Writing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(0, 0.5)
        return x * self.weight


@pytest.mark.parametrize(
    "function",
    [
        Writing(),
        lambda x: checkpoint(torch.sin, x, use_reentrant=True),
        lambda x: torch.linalg.inv(x.T @ x + torch.eye(4)),
    ],
    ids=["writing", "checkpoint", "inverse"],
)
def test_a_graph_with_other_inputs_than_the_forward_pass_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    module = Loss()
    module.function = function
    with pytest.raises(DifferentiationError) as caught:
        build(module)
    assert "--engine torch" in str(caught.value.help)


def test_hooks_on_the_forward_pass_and_functions_of_torch_are_kept() -> None:
    module = Loss(lambda x: checkpoint(torch.sin, x, use_reentrant=False))
    module.inner[0].register_forward_hook(lambda part, given, result: result * 3)
    assert_parity(module, [torch.randn(3, 4)], [torch.randn(5, 4)])
    assert torch.sin(nn.Parameter(torch.zeros(1))).register_hook(turned) is not None, "outside they are as they were"
    assert StraightThrough.apply(torch.ones(1)) == 1


def test_a_graph_in_the_cache_is_not_that_of_a_model_with_hooks(tmp_path: Path) -> None:
    obtain_training_graph(Small(), HPARAMS, directory=tmp_path)
    model = Small()
    model.inner.weight.register_hook(turned)
    with pytest.raises(DifferentiationError, match=r"the parameter inner\.weight has a hook"):
        obtain_training_graph(model, HPARAMS, directory=tmp_path)
