"""What is exported quickly is what torch.onnx exports."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from onnx.printer import to_text
from onnxscript import opset18
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.export import quick
from t2tdeploy.export.undecomposed import to_onnx
from t2tdeploy.training.graph.build import build_training_graph
from tests.export.calls import Calls
from tests.training.graph.small_model import Small


def exported(function: Any, inputs: tuple[Tensor, ...]) -> str:
    program = to_onnx(
        Calls(function),
        inputs,
        dynamic_shapes=(({0: Dim("rows")},) * len(inputs),),
        inputs=["x", "y"][: len(inputs)],
        outputs=["out"],
        opset=18,
    )
    return to_text(program.model_proto)


def mixed_types(x: Tensor, y: Tensor) -> Tensor:
    """Of an integer, floats and numbers, so that arguments and results are promoted."""
    return (x * 2 + y) / 3 + torch.where(x > y, x, y * 0.5).sqrt()


def branches(x: Tensor, y: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda a, b: a * 2 + b, lambda a, b: a - b * 3, (x, y))


@pytest.mark.parametrize("function", [mixed_types, branches, lambda x, y: nn.functional.gelu(x @ y.T.float()) ** 2])
def test_graphs_are_those_of_torch_onnx(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.rand(3, 4), torch.randint(0, 5, (3, 4))
    quickly = exported(function, inputs)
    assert exported(function, inputs) == quickly
    monkeypatch.setattr(quick, "_from_torchlib", None)
    assert exported(function, inputs) == quickly


def test_a_training_graph_is_that_of_torch_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    def graphs() -> list[str]:
        built = build_training_graph(Small(), label_smoothing=0.1)
        return [to_text(graph) for graph in (built.training, built.evaluation)]

    quickly = graphs()
    monkeypatch.setattr(quick, "_from_torchlib", None)
    assert graphs() == quickly


def test_a_translation_of_one_export_is_not_there_in_the_next() -> None:
    x = (torch.rand(3, 4),)
    before = exported(torch.relu, x)

    def identity(x: Any) -> Any:
        return opset18.Identity(x)

    program = quick.export_quickly(
        torch.export.export(Calls(torch.relu), x),
        custom_translation_table={torch.ops.aten.relu.default: identity},
        opset_version=18,
    )
    assert [node.op_type for node in program.model.graph] == ["Identity"]
    assert exported(torch.relu, x) == before


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_it_was(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with quick.without_garbage_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
