"""Laws of a graph without a search in 8 bits: which layers are made of integers, however the exporter wrote them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.export.quantize_single_pass import FEW_WEIGHTS, quantize_single_pass

WIDTH, CLASSES = 64, 5
FEEDS = [{"x": np.random.default_rng(seed).normal(size=(32, WIDTH)).astype(np.float32)} for seed in range(4)]


def layers(operators: Sequence[str], sizes: Sequence[int]) -> ModelProto:
    """Layers one behind another with Relu between them, of weights `w0`, `w1`, …; x [batch, WIDTH] -> logits."""
    drawn = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(drawn.normal(size=shape).astype(np.float32), f"w{place}")
        for place, shape in enumerate(zip([WIDTH, *sizes], sizes, strict=False))
    ]
    nodes: list[NodeProto] = []
    name = "x"
    for place, operator in enumerate(operators):
        if place:
            nodes.append(helper.make_node("Relu", [name], [f"relu{place}"]))
            name = f"relu{place}"
        result = "logits" if place == len(operators) - 1 else f"layer{place}"
        nodes.append(helper.make_node(operator, [name, f"w{place}"], [result]))
        name = result
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("x", WIDTH), ("logits", sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "layers", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def stored_as_floats(model: ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}


@pytest.mark.parametrize("first", ["Gemm", "MatMul"])
@pytest.mark.parametrize("last", ["Gemm", "MatMul"])
def test_the_last_layer_stays_float32(first: str, last: str) -> None:
    model = layers([first, last], [WIDTH, CLASSES])
    found = quantize_single_pass(model, FEEDS)
    assert stored_as_floats(found) & {"w0", "w1"} == {"w1"}
    wanted, made = (
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, FEEDS[0])[0]
        for one in (model, found)
    )
    assert np.abs(made - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_a_layer_of_few_weights_stays_float32(operator: str) -> None:
    narrow = FEW_WEIGHTS // WIDTH - 1
    found = quantize_single_pass(layers([operator] * 4, [WIDTH, narrow, WIDTH, CLASSES]), FEEDS)
    assert stored_as_floats(found) & {"w0", "w1", "w2", "w3"} == {"w1", "w2", "w3"}


def test_a_graph_of_one_layer_stays_as_it_is() -> None:
    model = layers(["MatMul"], [CLASSES])
    found = quantize_single_pass(model, FEEDS)
    assert [node.op_type for node in found.graph.node] == ["MatMul"]
    assert stored_as_floats(found) == {"w0"}
