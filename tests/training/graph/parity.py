"""A joint graph, run by onnxruntime, against torch's autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from t2tdeploy.training.graph.manifest import Manifest, axes_of, size_of

BATCH = Dim("batch")


def assert_parity(
    module: nn.Module,
    example: Sequence[Tensor],
    batch: Sequence[Tensor],
    dynamic_shapes: Sequence[Mapping[int, Any] | None] | None = None,
) -> onnx.ModelProto:
    """Builds the graph from `example` and compares all its outputs with torch's on `batch`; returns the graph."""
    dynamic_shapes = dynamic_shapes or [{0: BATCH}] * len(example)
    inputs = tuple(f"input_{place}" for place in range(len(example)))
    outputs = ("loss", *(f"output_{place}" for place in range(1, len(module(*example)))))
    graph = joint_graph(module, example, dynamic_shapes, GraphNames(inputs, outputs))
    onnx.checker.check_model(graph)
    assert {opset.domain for opset in graph.opset_import} == {""}
    assert not graph.functions
    found = run(graph, tensors(module) | dict(zip(inputs, batch, strict=True)))
    assert_equal(found, autograd(module, batch, outputs))
    return graph


def assert_equal(found: Mapping[str, np.ndarray], expected: Mapping[str, Tensor]) -> None:
    """The same names, and the same numbers to float32 noise."""
    assert [*found] == [*expected]
    for name, value in expected.items():
        size = max(1.0, float(value.detach().abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(
            torch.from_numpy(found[name]),
            value.detach(),
            rtol=1e-4,
            atol=1e-5 * size,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def masks_of(manifest: Manifest, batch: Mapping[str, Tensor], *, least: int) -> dict[str, Tensor]:
    """Dropout masks for a batch, their entries random but at least `least`."""
    axes = axes_of(manifest.features, {name: tuple(tensor.shape) for name, tensor in batch.items()})
    return {
        spec.name: torch.randint(least, 2, [size_of(axis, axes) for axis in spec.shape], dtype=torch.uint8)
        for spec in manifest.masks
    }


class StraightThrough(torch.autograd.Function):
    """Rounding whose gradient is that of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Scaled(nn.Module):
    """Dropout of rate 1/4 whose mask keeps everything."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 0.75


def run(graph: onnx.ModelProto, feed: Mapping[str, Tensor], *, threads: int = 1) -> dict[str, np.ndarray]:
    """Output name -> value, by onnxruntime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = {value.name: feed[value.name].numpy() for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, arrays), strict=True))


def autograd(module: nn.Module, batch: Sequence[Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
    """What the graph's outputs should be, in their order. The module's buffers change."""
    before = tensors(module)
    module.zero_grad()
    results = module(*batch)
    results[0].backward()
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    gradients = {
        f"{name}.grad": torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in trained.items()
    }
    changed = {f"{name}.new": now for name, now in module.named_buffers() if not torch.equal(now, before[name])}
    return dict(zip(outputs, results, strict=True)) | gradients | changed


class Branch(nn.Module):
    """A function of its own function of x, with a parameter for each channel (axis 1), so that its gradient shows."""

    def __init__(self, function: Callable[..., Tensor], channels: int) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.linspace(0.2, 0.8, channels))

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        scale = self.scale.view(-1, *[1] * (x.dim() - 2))
        result: Tensor = self.function(x + scale * x * x, *others)
        return result


class Branches(nn.Module):
    """Many functions of the same inputs at once: one graph tests them all, and the outputs say which is wrong.

    Args:
        channels: the size of axis 1 of the first input.
        functions: name -> function or module of the inputs.
    """

    def __init__(self, channels: int, **functions: Callable[..., Tensor]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({name: Branch(function, channels) for name, function in functions.items()})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results = [branch(*inputs) for branch in self.branches.values()]
        loss = sum((result.sin().sum() + result.square().mean() for result in results), start=torch.zeros(()))
        return loss, *results
