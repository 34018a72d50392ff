"""A Reshape whose sizes are known or its input's computes none; what it returns stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.export import Dim

from t2tdeploy.export.reshapes import simplify_reshapes
from t2tdeploy.export.undecomposed import to_onnx
from tests.export.calls import Calls


@pytest.mark.parametrize(
    ("function", "computed"),
    [
        (lambda x: x.reshape(x.size(0), x.size(1), 2, 4), 0),
        (lambda x: x.flatten(0, 1), 0),
        (lambda x: x.unflatten(2, (4, 2)).transpose(1, 2).flatten(2), 0),
        (lambda x: x.transpose(0, 1).reshape(x.size(0), x.size(1), 8), 1),  # both sizes are in other places
    ],
)
def test_sizes_are_copied_or_inferred_where_that_is_enough(function: Any, computed: int) -> None:
    dynamic = (({0: Dim("batch"), 1: Dim("length")},),)
    program = to_onnx(
        Calls(function), (torch.randn(3, 5, 8),), dynamic_shapes=dynamic, inputs=["x"], outputs=["y"], opset=18
    )
    simplify_reshapes(program.model)
    assert sum(node.op_type == "Concat" for node in program.model.graph) == computed
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, length in ((1, 1), (2, 7), (4, 4)):
        x = torch.randn(batch, length, 8)
        np.testing.assert_array_equal(session.run(None, {"x": x.numpy()})[0], function(x).numpy())
