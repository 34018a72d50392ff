"""Laws of the search in float16: the same signature, products in float16, scores in float32, close to float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.export.half import LARGEST_HALF, PRODUCTS, halved
from t2tdeploy.runtime import GraphSession, SearchResult
from t2tdeploy.sentences import pad_rows
from t2tdeploy.tokenizer import ByteTokenizer
from tests.export.graphs import byte_graph
from tests.models.tiny import random_sources

torch.set_num_threads(1)
SOURCES = random_sources(ByteTokenizer.vocab_size, seed=1, count=12)
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def exact_graph() -> ModelProto:
    """With the past of caches apart, as large models have it."""
    return byte_graph(apart=True)


@pytest.fixture(scope="module")
def half() -> ModelProto:
    return halved(exact_graph())


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def branches(node: NodeProto) -> Iterator[GraphProto]:
    """Of an If: what requests ask of the search beyond its beam, which decides."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from graphs(attribute.g)


def types_of(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    found = {}
    for graph in graphs(inferred.graph):
        values = [*graph.input, *graph.output, *graph.value_info]
        found |= {value.name: value.type.tensor_type.elem_type for value in values}
        found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return found


def search(model: ModelProto, rows: list[list[int]]) -> SearchResult:
    limits = np.array([len(row) + 6 for row in rows])
    session = GraphSession(model.SerializeToString(), threads=1)
    return session.search(pad_rows(rows), limits, beam_size=4, alpha=0.6, num_hypotheses=2)


def test_the_signature_stays(half: ModelProto) -> None:
    assert list(half.graph.input) == list(exact_graph().graph.input)
    assert list(half.graph.output) == list(exact_graph().graph.output)
    assert half.opset_import == exact_graph().opset_import
    assert half.ir_version == exact_graph().ir_version


def test_the_graph_given_stays_as_it_is() -> None:
    before = exact_graph().SerializeToString(deterministic=True)
    halved(exact_graph())
    assert exact_graph().SerializeToString(deterministic=True) == before


def test_weights_take_half_the_space(half: ModelProto) -> None:
    def floats(model: ModelProto) -> int:
        large = [one for one in model.graph.initializer if one.data_type in (FLOAT, HALF) and len(one.dims) == 2]
        return sum(numpy_helper.to_array(one).nbytes for one in large)

    assert floats(half) <= 0.51 * floats(exact_graph())  # a table of positions stays float32


def test_products_read_float16_and_decisions_float32(half: ModelProto) -> None:
    types = types_of(half)
    nodes = [node for graph in graphs(half.graph) for node in graph.node]
    optional = {id(node) for node in nodes if node.op_type == "If" for graph in branches(node) for node in graph.node}
    products = [node for node in nodes if node.op_type in PRODUCTS and id(node) not in optional]
    assert products
    assert {types[name] for node in products for name in node.input} == {HALF}
    kept = {"TopK", "LogSoftmax", "ReduceMax", "Log", "Exp", "ReduceSum", "Pow", "Sin", "Cos"}
    exact = [node for node in nodes if node.op_type in kept]
    assert {node.op_type for node in exact} >= {"TopK", "Sin"}
    assert HALF not in {types[name] for node in exact for name in node.input}


def test_the_loop_carries_caches_in_float16_and_scores_in_float32(half: ModelProto) -> None:
    bodies = [graph for graph in graphs(half.graph) if graph.name in ("segment", "step")]
    types = {value.name: value.type.tensor_type.elem_type for body in bodies for value in body.input}
    assert {types[name] for name in types if "score" in name} == {FLOAT}
    caches = {name: kind for name, kind in types.items() if name.startswith(("state_", "past_state_"))}
    assert set(caches.values()) == {HALF}
    assert len(caches) == 8


def test_the_past_is_lengthened_in_float16(half: ModelProto) -> None:
    """It is the most of what a search holds: in float32 it would be copied twice more, twice as wide."""
    segment = next(graph for graph in graphs(half.graph) if graph.name == "segment")
    lengthening = [node for node in segment.node if node.op_type == "If"]
    assert len(lengthening) == 1
    moved = {name for graph in branches(lengthening[0]) for node in graph.node for name in (*node.input, *node.output)}
    pasts = {name for name in (*moved, *lengthening[0].output) if "past_state_" in name}
    assert pasts
    casts = [node for graph in graphs(segment) for node in graph.node if node.op_type == "Cast"]
    assert pasts.isdisjoint({name for node in casts for name in (*node.input, *node.output)})
    assert {value.type.tensor_type.elem_type for graph in branches(lengthening[0]) for value in graph.output} == {HALF}


def test_scores_are_close_to_those_of_float32(half: ModelProto) -> None:
    exact, rounded = search(exact_graph(), SOURCES), search(half, SOURCES)
    same = [np.array_equal(one, other) for one, other in zip(exact.target_ids, rounded.target_ids, strict=True)]
    assert np.mean(same) > 0.8
    assert np.abs(exact.scores - rounded.scores)[same].max() < 0.02
    assert not np.array_equal(exact.scores, rounded.scores)


def test_a_translation_does_not_depend_on_its_batch(half: ModelProto) -> None:
    """Padding is masked by the lowest float16 instead of -1e9: nothing of it may come through."""
    together = search(half, SOURCES)
    for row in range(4):
        alone = search(half, [SOURCES[row]])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=5e-3)


def small_model(nodes: list[onnx.NodeProto], outputs: list[str], weights: dict[str, np.ndarray]) -> ModelProto:
    """x [2, 2] -> outputs, float32."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, [2, 2])],
        [helper.make_tensor_value_info(name, FLOAT, ["rows", "columns"]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
W = np.array([[0.5, 0.0], [1.0, 2.0]], np.float32)


def test_state_of_a_loop_that_is_an_output_keeps_its_type() -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "w"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", FLOAT, [2, 2]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", FLOAT, [2, 2]),
        ],
    )
    loop = helper.make_node("Loop", ["three", "", "x"], ["y"], body=body)
    model = small_model([loop], ["y"], {"w": W, "three": np.array(3)})
    found = halved(model)
    assert [one.data_type for one in found.graph.initializer if one.name.startswith("w")] == [HALF]
    np.testing.assert_allclose(run(found, X)[0], X @ W @ W @ W, rtol=1e-3)


def test_a_branch_reads_what_became_float16_as_float32() -> None:
    inside = helper.make_graph(
        [helper.make_node("Exp", ["logits"], ["e"])], "then", [], [helper.make_tensor_value_info("e", FLOAT, None)]
    )
    other = helper.make_graph(
        [helper.make_node("MatMul", ["logits", "w"], ["p"])], "else", [],
        [helper.make_tensor_value_info("p", FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=inside, else_branch=other),
    ]
    for yes, expected in ((True, np.exp(X @ W)), (False, X @ W @ W)):
        found = halved(small_model(nodes, ["y"], {"w": W, "yes": np.array(yes)}))
        np.testing.assert_allclose(run(found, X)[0], expected, rtol=1e-3)


@pytest.mark.parametrize("yes", [True, False])
def test_branches_that_only_move_numbers_move_float16(yes: bool) -> None:
    """What else reads their result, or what they read, reads it as float32."""
    value = helper.make_tensor_value_info
    both = helper.make_graph(
        [helper.make_node("Concat", ["logits", "x"], ["b"], axis=1)], "then", [], [value("b", FLOAT, None)]
    )
    twice = helper.make_graph(
        [helper.make_node("Concat", ["logits", "logits"], ["t"], axis=1)], "else", [], [value("t", FLOAT, None)]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("If", ["yes"], ["moved"], then_branch=both, else_branch=twice),
        helper.make_node("MatMul", ["moved", "tall"], ["product"]),
        helper.make_node("Neg", ["product"], ["y"]),
        helper.make_node("Exp", ["moved"], ["z"]),
    ]
    tall = np.concatenate([W, W])
    found = halved(small_model(nodes, ["y", "z"], {"w": W, "tall": tall, "yes": np.array(yes)}))
    choice = next(node for node in found.graph.node if node.op_type == "If")
    assert {one.type.tensor_type.elem_type for graph in branches(choice) for one in graph.output} == {HALF}
    moved = np.concatenate([X @ W, X if yes else X @ W], axis=1)
    for result, expected in zip(run(found, X), (-moved @ tall, np.exp(moved)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-2)


def moving(outputs: dict[str, str], *, initializer: np.ndarray | None = None) -> GraphProto:
    """A branch that doubles tensors of the graph around it, result -> tensor; what it has of its own, it only has."""
    nodes = [helper.make_node("Concat", [name, name], [result], axis=1) for result, name in outputs.items()]
    own = [] if initializer is None else [numpy_helper.from_array(initializer, "own")]
    values = [helper.make_tensor_value_info(result, FLOAT, None) for result in outputs]
    return helper.make_graph(nodes, "branch", [], values, own)


def test_scores_that_are_moved_beside_caches_stay_float32() -> None:
    """The If has one precision for all that it moves; these scores float16 cannot hold."""
    names = {"caches": "x", "scores": "large"}
    nodes = [
        helper.make_node("Mul", ["x", "many"], ["large"]),
        helper.make_node(
            "If", ["yes"], list(names),
            then_branch=moving({f"{result}/then": name for result, name in names.items()}),
            else_branch=moving({f"{result}/else": name for result, name in names.items()}),
        ),
        helper.make_node("MatMul", ["caches", "tall"], ["product"]),
        helper.make_node("Neg", ["product"], ["y"]),
        helper.make_node("ReduceMax", ["scores"], ["z"], keepdims=1),
    ]  # fmt: skip
    constants = {"many": np.array(1e5, np.float32), "tall": np.concatenate([W, W]), "yes": np.array(True)}
    found = halved(small_model(nodes, ["y", "z"], constants))
    np.testing.assert_allclose(run(found, X)[1], [[4e5]])


@pytest.mark.parametrize("kept", ["initializer", "shape"])
@pytest.mark.parametrize("yes", [True, False])
def test_a_branch_that_does_more_than_move_keeps_float32(kept: str, yes: bool) -> None:
    """A tensor of its own would stay float32 among float16; and what it only asks the shape of is not converted."""
    then = moving({"t": "logits"}, initializer=X if kept == "initializer" else None)
    if kept == "shape":
        then.node.append(helper.make_node("Shape", ["logits"], ["unused"]))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("If", ["yes"], ["moved"], then_branch=then, else_branch=moving({"e": "x"})),
        helper.make_node("MatMul", ["moved", "tall"], ["product"]),
        helper.make_node("Neg", ["product"], ["y"]),
    ]
    tall = np.concatenate([W, W])
    found = halved(small_model(nodes, ["y"], {"w": W, "tall": tall, "yes": np.array(yes)}))
    choice = next(node for node in found.graph.node if node.op_type == "If")
    assert {one.type.tensor_type.elem_type for graph in branches(choice) for one in graph.output} == {FLOAT}
    asked = [node.input[0] for graph in branches(choice) for node in graph.node if node.op_type == "Shape"]
    assert asked == ["logits"] * (kept == "shape")
    doubled = np.concatenate([X @ W] * 2 if yes else [X] * 2, axis=1)
    np.testing.assert_allclose(run(found, X)[0], -doubled @ tall, rtol=1e-2)


def test_a_number_beyond_float16_becomes_the_nearest_that_it_has() -> None:
    nodes = [
        helper.make_node("Where", ["mask", "x", "large"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"]),
        helper.make_node("MatMul", ["weights", "w"], ["z"]),
        helper.make_node("Neg", ["z"], ["y"]),
    ]
    mask = np.array([[True, False], [False, False]])
    found = halved(small_model(nodes, ["y"], {"w": W, "large": np.array(-1e9, np.float32), "mask": mask}))
    constants = {one.name: numpy_helper.to_array(one) for one in found.graph.initializer}
    assert constants["large/half"] == -LARGEST_HALF
    np.testing.assert_allclose(run(found, X)[0], -np.array([[1, 0], [0.5, 0.5]]) @ W, rtol=1e-3)


def test_a_number_too_small_for_float16_does_not_become_0() -> None:
    """A mean over a mask divides by Max(count, 1e-9): of nothing it is 0, and never 0 / 0."""
    nodes = [
        helper.make_node("Max", ["count", "floor"], ["divisor"]),
        helper.make_node("Div", ["x", "divisor"], ["mean"]),
        helper.make_node("MatMul", ["mean", "w"], ["z"]),
        helper.make_node("Neg", ["z"], ["y"]),
    ]
    constants = {"w": np.array([[1e-9, -1e-9], [0.0, 2.0]], np.float32), "floor": np.array(1e-9, np.float32)}
    found = halved(small_model(nodes, ["y"], {**constants, "count": np.array([[0.0], [2.0]], np.float32)}))
    halves = {one.name: numpy_helper.to_array(one) for one in found.graph.initializer}
    assert halves["floor/half"] > 0
    assert np.array_equal(np.sign(halves["w/half"]), np.sign(constants["w"]))
    np.testing.assert_allclose(run(found, np.array([[0, 0], [3, 4]], np.float32))[0], [[0, 0], [0, -4]], atol=1e-3)


@pytest.mark.parametrize(
    "attribute",
    [
        {"value": numpy_helper.from_array(np.array(-1e9, np.float32))},
        {"value_float": -1e9},
        {"value_floats": [-1e9, -1e9]},
    ],
    ids=lambda attribute: next(iter(attribute)),
)
def test_a_constant_is_rounded_however_it_is_written(attribute: dict[str, Any]) -> None:
    """As a mask that became -inf, whole rows of it would have no softmax."""
    nodes = [
        helper.make_node("Constant", [], ["large"], **attribute),
        helper.make_node("Where", ["mask", "x", "large"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"]),
        helper.make_node("MatMul", ["weights", "w"], ["z"]),
        helper.make_node("Neg", ["z"], ["y"]),
    ]
    mask = np.array([[True, False], [False, False]])
    found = halved(small_model(nodes, ["y"], {"w": W, "mask": mask}))
    np.testing.assert_allclose(run(found, X)[0], -np.array([[1, 0], [0.5, 0.5]]) @ W, rtol=1e-3)
