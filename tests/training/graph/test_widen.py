"""Operators without a bfloat16 kernel compute in float32, and everything else stays as it was."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import ModelProto, parser
from onnx.reference import ReferenceEvaluator

from t2tdeploy.training.graph.widen import widened

MODEL = """
<ir_version: 10, opset_import: ["" : 18]>
graph (bfloat16[n, 3] x, bool flag) => (bfloat16[n, 3] y, bool[n, 3] large)
{
    sum = Add (x, x)
    y0 = Log (sum)
    zero = Constant <value = bfloat16 {0}> ()
    large = Greater (sum, zero)
    y = If (flag) <
        then_branch = yes () => (bfloat16[n, 3] a) { a = Reciprocal (y0) },
        else_branch = no () => (bfloat16[n, 3] b) { b = Mul (y0, x) }>
}
"""


def model() -> ModelProto:
    return parser.parse_model(MODEL)


def operators(graph: onnx.GraphProto) -> list[str]:
    return [node.op_type for node in graph.node]


def test_only_what_lacks_a_kernel_gets_casts_and_a_value_is_cast_once() -> None:
    made = widened(model())
    onnx.checker.check_model(made, full_check=True)
    assert operators(made.graph) == ["Add", "Cast", "Log", "Cast", "Constant", "Cast", "Greater", "If"]
    yes, no = (attribute.g for attribute in made.graph.node[-1].attribute)
    assert operators(yes) == ["Cast", "Reciprocal", "Cast"]
    assert operators(no) == ["Mul"]


def test_the_result_is_the_same() -> None:
    x = np.array([[0.5, 1.0, 3.0], [7.0, 0.25, 2.0]]).astype(ml_dtypes.bfloat16)
    for flag in (True, False):
        found, expected = (
            ReferenceEvaluator(one).run(None, {"x": x, "flag": np.array(flag)}) for one in (widened(model()), model())
        )
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine.astype(np.float32), theirs.astype(np.float32), rtol=1e-2)
