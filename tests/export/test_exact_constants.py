"""Numbers that are nearly 0 or 1 stay in a graph: it computes what the model does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.export import Dim

from t2tdeploy.export.undecomposed import to_onnx
from tests.export.calls import Calls

NEARLY_ONE = 1 + 2.0**-20


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1e-9,
        lambda x: 1e-12 + x,
        lambda x: x - 1e-9,
        lambda x: x * NEARLY_ONE,
        lambda x: x / NEARLY_ONE,
        lambda x: (x + 1e-12).log(),
    ],
)
def test_a_graph_has_the_constants_of_its_model(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([0.0, 3e-9, 1.0])
    program = to_onnx(
        Calls(function), (x,), dynamic_shapes=(({0: Dim("rows")},),), inputs=["x"], outputs=["out"], opset=18
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, function(x).numpy(), rtol=2e-7)


@pytest.mark.parametrize("function", [lambda x: x + 0, lambda x: x * 1, lambda x: x - 0.0, lambda x: x / 1])
def test_what_changes_nothing_is_still_left_out(function: Callable[[Tensor], Tensor]) -> None:
    program = to_onnx(
        Calls(function),
        (torch.ones(3),),
        dynamic_shapes=(({0: Dim("rows")},),),
        inputs=["x"],
        outputs=["out"],
        opset=18,
    )
    assert {node.op_type for node in program.model_proto.graph.node} <= {"Identity"}
