"""A graph has each weight once, and products of two multiplied out."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from t2tdeploy.export.weights import multiply_weights, share_weights

A, B = (np.random.default_rng(seed).normal(size=(40, 50)).astype(np.float32) for seed in (0, 1))
IDS = np.array([3, 0, 39])


def graph_of(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"])
    found = helper.make_tensor_value_info("found", TensorProto.FLOAT, ["batch", None])
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    return helper.make_model(
        helper.make_graph(nodes, "graph", [ids], [found], tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"ids": IDS})[0])


MUL = helper.make_node("Mul", ["a", "b"], ["c"])
LOOK = helper.make_node("Gather", ["c", "ids"], ["found"])


def test_a_product_is_stored_multiplied_out() -> None:
    model = graph_of([MUL, LOOK], a=A, b=B)
    before = run(model)
    multiply_weights(model.graph)
    assert [tensor.name for tensor in model.graph.initializer] == ["c"]
    assert [node.op_type for node in model.graph.node] == ["Gather"]
    assert np.array_equal(run(model), before)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        (
            [MUL, helper.make_node("Add", ["c", "a"], ["d"]), helper.make_node("Gather", ["d", "ids"], ["found"])],
            (A, B),
        ),
        ([MUL, LOOK], (A, B[:1])),
        ([helper.make_node("Mul", ["a", "a"], ["c"]), LOOK], (A,)),
    ],
    ids=["read again", "another shape", "squared"],
)
def test_other_products_stay(nodes: list[onnx.NodeProto], weights: tuple[np.ndarray, ...]) -> None:
    model = graph_of(nodes, **dict(zip("ab", weights, strict=False)))
    before = model.SerializeToString()
    multiply_weights(model.graph)
    assert model.SerializeToString() == before


def test_equal_and_transposed_weights_are_stored_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["c"]),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Gather", ["e", "ids"], ["found"]),
    ]
    square = A @ A.T
    model = graph_of(nodes, a=A, b=np.ascontiguousarray(A.T), d=square)
    before = run(model)
    share_weights(model.graph)
    assert {tensor.name for tensor in model.graph.initializer} == {"a", "d"}
    assert np.allclose(run(model), before)
