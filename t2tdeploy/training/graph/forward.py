"""Any torch module's forward pass as one ONNX graph whose parameters are inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnxscript import ir
from torch import Tensor, nn

from t2tdeploy.export.undecomposed import to_onnx
from t2tdeploy.training.graph.joint import OPSET, GraphNames
from t2tdeploy.training.graph.simplify import simplified


def forward_graph(
    module: nn.Module,
    example: Sequence[Tensor],
    dynamic_shapes: Sequence[Mapping[int, Any] | None],
    names: GraphNames,
) -> onnx.ModelProto:
    """Exports `module` in the mode that it is in; as `joint_graph`, but for gradients."""
    translated = to_onnx(
        module,
        tuple(example),
        dynamic_shapes=grouped_as_arguments(module, dynamic_shapes),
        inputs=names.inputs,
        outputs=names.outputs,
        opset=OPSET,
        optimize=False,
    )
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    found = [name for name in tensors if name in translated.model.graph.initializers]
    for name in found:
        _make_input(translated.model.graph, name)
    return simplified(translated.model, [*names.inputs, *found], {})


def grouped_as_arguments(module: nn.Module, per_tensor: Sequence[Any]) -> dict[str, Any]:
    """One thing per tensor, grouped as `forward` takes its arguments: `*features` is one tuple."""
    rest = iter(per_tensor)
    arguments = inspect.signature(module.forward).bind(*per_tensor).arguments
    return {
        name: tuple(next(rest) for _ in value) if isinstance(value, tuple) else next(rest)
        for name, value in arguments.items()
    }


def _make_input(graph: ir.Graph, name: str) -> None:
    value = graph.initializers.pop(name)
    value.const_value = None
    graph.inputs.append(value)
