"""A graph runs on torch's memory, and what goes wrong there is told in our words."""

from __future__ import annotations

import pytest
import torch
from onnx import ModelProto, parser

from t2tdeploy.errors import OperationalError
from t2tdeploy.training.graph.runner import GraphRunner

SUM = """
<ir_version: 10, opset_import: ["" : 18]>
sum (float[batch, 2] x, float[2] weight) => (float[batch, 2] y, float total)
{
    y = Add (x, weight)
    total = ReduceSum <keepdims = 0> (y)
}
"""
LARGE = """
<ir_version: 10, opset_import: ["" : 18]>
large (int64[1] size) => (float[1] y)
{
    many = ConstantOfShape <value = float[1] {1.0}> (size)
    y = ReduceSum <keepdims = 1> (many)
}
"""
LOW = """
<ir_version: 10, opset_import: ["" : 18]>
low (float[2] x) => (float[2] y)
<bfloat16[2] narrow, bfloat16[2] bent>
{
    narrow = Cast <to = 16> (x)
    bent = Tanh (narrow)
    y = Cast <to = 1> (bent)
}
"""


def runner(text: str) -> GraphRunner:
    return GraphRunner(parser.parse_model(text), device=torch.device("cpu"), threads=1)


def test_inputs_are_read_and_outputs_written_where_they_lie() -> None:
    graph = runner(SUM)
    assert (graph.inputs, graph.outputs) == (["x", "weight"], ["y", "total"])
    weight, total = torch.tensor([1.0, 2.0]), torch.zeros(())
    graph.bind_inputs({"weight": weight})
    graph.bind_outputs({"total": total})
    for rows in (1, 4, 2):  # shapes may change from run to run
        x, y = torch.randn(rows, 2), torch.zeros(rows, 2)
        graph.bind_inputs({"x": x})
        graph.bind_outputs({"y": y})
        weight.add_(1.0)  # seen, for nothing was copied
        graph.run()
        torch.testing.assert_close(y, x + weight)
        torch.testing.assert_close(total, (x + weight).sum())


def test_a_graph_that_onnxruntime_does_not_know_is_refused() -> None:
    unknown: ModelProto = parser.parse_model(SUM.replace("Add", "Plus"))
    with pytest.raises(OperationalError, match=r"cannot load the training graph:.*Plus") as caught:
        GraphRunner(unknown, device=torch.device("cpu"), threads=1)
    assert "--engine torch" in str(caught.value.help)


def test_a_graph_in_types_that_onnxruntime_lacks_is_refused_with_the_reason() -> None:
    with pytest.raises(OperationalError, match=r"part of which is in bfloat16, as within torch\.autocast"):
        runner(LOW)


def test_a_run_that_fails_says_why() -> None:
    graph = runner(SUM)
    graph.bind_inputs({"x": torch.zeros(1, 3), "weight": torch.zeros(2)})
    graph.bind_outputs({"y": torch.zeros(1, 2), "total": torch.zeros(())})
    with pytest.raises(OperationalError, match="failed to run the training graph") as caught:
        graph.run()
    assert "--engine torch" in str(caught.value.help)


def test_memory_that_runs_out_is_a_memory_error() -> None:
    graph = runner(LARGE)
    graph.bind_inputs({"size": torch.tensor([2**50])})
    graph.bind_outputs({"y": torch.zeros(1)})
    with pytest.raises(MemoryError):
        graph.run()
