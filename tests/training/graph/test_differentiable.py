"""Translations for the gradient builder of onnxruntime-training compute what torch does; their gradients are tested in
test_gradient_builder.py, which needs that package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim
from torch.nn import functional as F

from t2tdeploy.export.quick import export_quickly
from t2tdeploy.training.graph.differentiable import TABLE
from tests.export.calls import Calls
from tests.training.graph.parity import run


def computed(function: Callable[..., Tensor], example: Sequence[Tensor], *given: Tensor, axes: Any = None) -> Tensor:
    """By a graph that is made of the example; with axes of sizes that may differ, if they are named."""
    names = [f"x{place}" for place in range(len(given))]
    program = export_quickly(
        Calls(function),
        tuple(example),
        dynamic_shapes=None if axes is None else (axes,),
        input_names=names,
        output_names=["y"],
        opset_version=18,
        custom_translation_table=TABLE,
        optimize=False,
    )
    return torch.from_numpy(run(program.model_proto, dict(zip(names, given, strict=True)))["y"])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("impossible", [False, True])
def test_cross_entropy(reduction: str, smoothing: float, weighted: bool, impossible: bool) -> None:
    """Also where the class of ignored labels, or the one that stands for them, cannot be."""
    torch.manual_seed(1)
    x, labels = torch.randn(5, 4, 3), torch.randint(0, 4, (5, 3))
    if impossible:
        x[:, 0] = -torch.inf
        labels = labels.clamp_min(1)
    ignored: dict[str, Any] = {"ignore_index": 1, "weight": torch.rand(4) if weighted else None}

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(x, labels, reduction=reduction, label_smoothing=smoothing, **ignored)

    torch.testing.assert_close(computed(loss, (x, labels), x, labels), loss(x, labels))


def test_batch_norm_of_one_value_leaves_finite_statistics() -> None:
    def variance(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        normalize = torch.ops.aten._native_batch_norm_legit_functional.default
        result: Tensor = normalize(x, None, None, mean, variance, True, 0.1, 1e-5)[4]
        return result

    example, *statistics = torch.randn(3, 4), torch.zeros(4), torch.ones(4)
    axes = ({0: Dim("rows")}, None, None)
    found = computed(variance, (example, *statistics), torch.randn(1, 4), *statistics, axes=axes)
    torch.testing.assert_close(found, torch.full((4,), 0.9))
