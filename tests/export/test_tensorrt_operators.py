"""The table says of every node what TensorRT's parser would, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.errors import InputError
from t2tdeploy.export.tensorrt_operators import MAX_OPSET, UNSUPPORTED, refusals, require_supported

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
info = helper.make_tensor_value_info


def model(
    nodes: list[NodeProto],
    inputs: dict[str, tuple[int, Any]],
    outputs: dict[str, tuple[int, Any]],
    constants: dict[str, Any] | None = None,
    opset: int = 18,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [info(name, *what) for name, what in inputs.items()],
        [info(name, *what) for name, what in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("own", 1)])


X, Y = {"x": (FLOAT, ["batch", 8000])}, {"y": (FLOAT, None)}
node = helper.make_node


@pytest.mark.parametrize(
    ("nodes", "inputs", "constants", "reason"),
    [
        ([node("Unique", ["x"], ["y"])], X, {}, "TensorRT does not have this operator"),
        ([node("Gelu", ["x"], ["y"], domain="own")], X, {}, "TensorRT does not have this operator"),
        ([node("TopK", ["x", "k"], ["y", "i"])], X, {"k": [5000]}, "K is 5000; it must be at most 3839"),
        ([node("TopK", ["x", "k"], ["y", "i"], sorted=0)], X, {"k": [2]}, "sorted must be 1"),
        ([node("TopK", ["x", "k"], ["y", "i"])], {**X, "k": (INT64, [1])}, {}, "its K is computed"),
        (
            [node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")],
            {**X, "i": (INT64, ["n", 1]), "u": (FLOAT, ["n", 8000])},
            {},
            "its reduction is 'add'; it must be 'none'",
        ),
        ([node("ReduceSum", ["x", "axes"], ["y"])], {**X, "axes": (INT64, [1])}, {}, "its axes is computed"),
        ([node("CumSum", ["x", "axis"], ["y"])], {**X, "axis": (INT64, [])}, {}, "its axis is computed"),
        ([node("Cast", ["x"], ["a"], to=TensorProto.INT16), node("Cast", ["a"], ["y"], to=FLOAT)], X, {}, "int16"),
        (
            [node("QuantizeLinear", ["x", "s", "z"], ["a"]), node("DequantizeLinear", ["a", "s", "z"], ["y"])],
            X,
            {"s": np.float32(1), "z": np.uint8(0)},
            "it quantizes to uint8",
        ),
        (
            [node("QuantizeLinear", ["x", "s", "z"], ["a"]), node("DequantizeLinear", ["a", "s", "z"], ["y"])],
            X,
            {"s": np.float32(1), "z": np.int8(3)},
            "its zero point must be 0",
        ),
        ([node("LayerNormalization", ["x", "s"], ["y", "mean"])], X, {"s": np.ones(8000, np.float32)}, "first output"),
        ([node("NonZero", ["x"], ["y"])], {"x": (BOOL, [3])}, {}, "its input must be float32 or float16"),
    ],
)
def test_what_tensorrt_cannot_run_is_named_with_its_reason(nodes, inputs, constants, reason):
    graph = model(nodes, inputs, Y, constants)
    assert any(reason in refusal.reason for refusal in refusals(graph))
    with pytest.raises(InputError, match="TensorRT cannot run") as caught:
        require_supported(graph)
    assert reason in caught.value.message
    assert nodes[0].op_type in caught.value.message
    assert caught.value.help


def loop(body: list[NodeProto], axes: Any, after: Any, *, trip: str = "n", scan: bool = False) -> ModelProto:
    outputs = [info("go_on", BOOL, []), info("x_next", FLOAT, after)]
    outputs += [info("y", FLOAT, axes)] if scan else []
    inputs = [info("i", INT64, []), info("condition", BOOL, []), info("x", FLOAT, axes)]
    graph = helper.make_graph([node("Identity", ["condition"], ["go_on"]), *body], "body", inputs, outputs)
    results = ["last", *(["all"] if scan else [])]
    return model(
        [node("Loop", [trip, "true", "start"], results, name="search", body=graph)],
        {"start": (FLOAT, axes)},
        {"last": (FLOAT, None)},
        {"n": 3, "true": True},
    )


RELU = node("Relu", ["x"], ["x_next"])
GROW = node("Concat", ["x", "x"], ["x_next"], axis=1)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (loop([GROW], ["batch", "history"], ["batch", "longer"]), "the shape of 'x' may change from step to step"),
        (loop([GROW], ["batch", None], ["batch", None]), "the shape of 'x' may change from step to step, in axis 1"),
        (loop([RELU], ["batch"], ["batch"], trip=""), "it has no trip count"),
        (loop([RELU, node("Neg", ["x"], ["y"])], ["batch"], ["batch"], scan=True), "'y' has as many parts"),
    ],
)
def test_a_loop_whose_shapes_change_is_refused(graph: ModelProto, reason: str):
    (refusal,) = refusals(graph)
    assert (refusal.node, refusal.operator) == ("search", "Loop")
    assert reason in refusal.reason


@pytest.mark.parametrize("axis", [4, "history", None])
def test_a_loop_that_keeps_its_shapes_is_not(axis: Any):
    assert refusals(loop([RELU], ["batch", axis], ["batch", axis])) == []


def test_nodes_inside_loops_and_branches_are_seen():
    inside = node("NonZero", ["x"], ["where"])
    (refusal,) = refusals(loop([RELU, inside], ["batch", 4], ["batch", 4]))
    assert "not possible inside a Loop" in refusal.reason

    def branch(result: str) -> GraphProto:
        return helper.make_graph([node("Unique", ["x"], [result])], "branch", [], [info(result, FLOAT, None)])

    choice = node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    found = refusals(model([choice], {**X, "c": (BOOL, [])}, Y))
    assert [refusal.operator for refusal in found] == ["Unique", "Unique"]


def test_branches_of_different_ranks_are_refused():
    def branch(result: str, shape: list[int]) -> GraphProto:
        return helper.make_graph([node("Identity", ["x"], [result])], "branch", [], [info(result, FLOAT, shape)])

    choice = node("If", ["c"], ["y"], then_branch=branch("a", [1]), else_branch=branch("b", [1, 1]))
    (refusal,) = refusals(model([choice], {"x": (FLOAT, None), "c": (BOOL, [])}, Y))
    assert refusal.reason == "its branches return a and b of different ranks"


def test_an_operator_set_that_tensorrt_does_not_read_is_refused():
    graph = model([node("Relu", ["x"], ["y"])], X, Y, opset=MAX_OPSET + 1)
    assert f"operator set {MAX_OPSET + 1}" in refusals(graph)[0].reason


def test_of_many_only_some_are_shown():
    nodes = [node("Unique", ["x"], [f"y{i}"]) for i in range(9)]
    with pytest.raises(InputError, match=r"9 nodes of the graph:(\n  Unique 'y\d': .*){5}\n  and 4 more"):
        require_supported(model(nodes, X, {"y0": (FLOAT, None)}))


def test_the_table_is_what_the_parser_says():
    trt = pytest.importorskip("tensorrt_rtx")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    schemas = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]
    known = {schema.name for schema in schemas if schema.since_version <= MAX_OPSET}
    lacking = {name for name in known if not parser.supports_operator(name)}
    assert lacking == UNSUPPORTED | {"DeformConv"}  # which TensorRT has, and TensorRT-RTX has not


def test_bytes_are_read_by_a_cast_and_nothing_else() -> None:
    pixels = {"x": (TensorProto.UINT8, ["batch", 4])}
    cast, turned = node("Cast", ["x"], ["y"], to=FLOAT), node("Transpose", ["x"], ["t"])
    assert not refusals(model([cast], pixels, Y))
    (found,) = {
        refusal.operator for refusal in refusals(model([turned, node("Cast", ["t"], ["y"], to=FLOAT)], pixels, Y))
    }
    assert found == "Transpose"
