"""A product of a matrix and a vector is what torch computes, at every level of onnxruntime's optimization."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.export import Dim

from t2tdeploy.export.undecomposed import to_onnx
from tests.export.calls import Calls

LEVELS = onnxruntime.GraphOptimizationLevel
VECTOR = torch.randn(3)


@pytest.mark.parametrize("level", [LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mT @ x[0, :, 0],
        lambda x: x.mT @ VECTOR,
        lambda x: x[0].mT.mv(x[1, :, 0]).unsqueeze(0),
        lambda x: x @ x[0, 0],
        lambda x: x[0, :, 0] @ x,
        lambda x: torch.cond(x.sum() > 1e6, lambda x: x.sum(1), lambda x: (x + 1).mT @ VECTOR, (x,)),
    ],
)
def test_products_with_vectors(function: Callable[[Tensor], Tensor], level: onnxruntime.GraphOptimizationLevel) -> None:
    program = to_onnx(
        Calls(function),
        (torch.randn(3, 3, 4),),
        dynamic_shapes=(({0: Dim("rows")},),),
        inputs=["x"],
        outputs=["y"],
        opset=18,
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    x = torch.randn(5, 3, 4)
    (found,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), function(x))
