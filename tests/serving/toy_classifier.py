"""Bundles that classify or regress without a model: small graphs of which every answer can be computed by hand.

texts     logit of class c: how often the byte of the c-th of "abcd" comes; ids from `known_ids` on make a run fail
table     width (number, may be missing: counts as -1), colour (string): logits [width, is red, is blue]
image     pixels 4x4x3: logits: the mean of each channel / 255
tensor    x [2, 3]: values [2]: the sum of each row
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from t2tdeploy.bundle import Bundle, FeatureInput, Manifest, TensorSpec, Variant, write_bundle
from t2tdeploy.tokenizer import ByteTokenizer

LETTERS = "abcd"
TEMPERATURE = 2.0
_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "string": 8}
_node = helper.make_node


def write_text_classifier(
    directory: Path,
    *,
    max_length: int = 20,
    parts: int = 1,
    known_ids: int = ByteTokenizer.vocab_size,
    slow_steps: int = 0,
    multi_label: bool = False,
) -> Bundle:
    counts = np.zeros((known_ids, len(LETTERS)), np.float32)
    for column, letter in enumerate(LETTERS):
        counts[ByteTokenizer().encode(letter)[0], column] = 1
    nodes = [
        _node("Gather", ["counts", "inputs_ids"], ["each"]),
        _node("ReduceSum", ["each", "axis1"], ["exact"], keepdims=0),
        *_slow(slow_steps),
        _node("Add", ["exact", "no_effect"], ["logits"]),
        *_probabilities(multi_label),
    ]
    constants = {
        "counts": counts,
        "axis1": np.array([1], np.int64),
        "state": np.full((512, 512), 1 / 512, np.float32),
        "nothing": np.array(0, np.float32),
    }
    feature = FeatureInput(kind="text", graph_input="inputs_ids", dtype="int64", max_length=max_length, parts=parts)
    inputs = (TensorSpec(name="inputs_ids", dtype="int64", axes=("batch", "source_length")),)
    return _write(
        directory, {"inputs": feature}, inputs, nodes, constants, classes=tuple(LETTERS), multi_label=multi_label
    )


def write_table_classifier(directory: Path) -> Bundle:
    nodes = [
        _node("IsNaN", ["width"], ["missing"]),
        _node("Where", ["missing", "minus_one", "width"], ["known_width"]),
        _is_colour("red"),
        _is_colour("blue"),
        *(_node("Unsqueeze", [name, "axis1"], [f"{name}2"]) for name in ("known_width", "red", "blue")),
        _node("Concat", ["known_width2", "red2", "blue2"], ["logits"], axis=1),
        *_probabilities(False),
    ]
    constants = {
        "minus_one": np.array(-1, np.float32),
        "axis1": np.array([1], np.int64),
    }
    features = {
        "width": FeatureInput(kind="number", graph_input="width", dtype="float32", may_be_missing=True),
        "colour": FeatureInput(kind="category", graph_input="colour", dtype="string"),
    }
    inputs = tuple(TensorSpec(name=name, dtype=one.dtype, axes=("batch",)) for name, one in features.items())
    return _write(directory, features, inputs, nodes, constants, classes=("wide", "red", "blue"))


def write_image_classifier(directory: Path) -> Bundle:
    nodes = [
        _node("Cast", ["inputs"], ["floats"], to=TensorProto.FLOAT),
        _node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        _node("Div", ["means", "largest"], ["logits"]),
        *_probabilities(False),
    ]
    constants = {"axes": np.array([1, 2], np.int64), "largest": np.array(255, np.float32)}
    feature = FeatureInput(kind="image", graph_input="inputs", dtype="uint8", shape=(4, 4, 3))
    inputs = (TensorSpec(name="inputs", dtype="uint8", axes=("batch", 4, 4, 3)),)
    return _write(directory, {"inputs": feature}, inputs, nodes, constants, classes=("red", "green", "blue"))


def write_tensor_regressor(directory: Path) -> Bundle:
    nodes = [_node("ReduceSum", ["x", "axis2"], ["values"], keepdims=0)]
    feature = FeatureInput(kind="tensor", graph_input="x", dtype="float32", shape=(2, 3))
    inputs = (TensorSpec(name="x", dtype="float32", axes=("batch", 2, 3)),)
    return _write(directory, {"x": feature}, inputs, nodes, {"axis2": np.array([2], np.int64)})


def _is_colour(name: str) -> onnx.NodeProto:
    values = {"keys_strings": [name], "values_floats": [1.0], "default_float": 0.0}
    return _node("LabelEncoder", ["colour"], [name], domain="ai.onnx.ml", **values)


def _slow(steps: int) -> list[onnx.NodeProto]:
    """So many matrix products, each of some milliseconds, whose result is 0. They wait for `exact`, so that onnxruntime
    does not compute them when it loads the graph."""
    names = ["first_state", *(f"state{step}" for step in range(steps))]
    products = [_node("MatMul", [before, "state"], [after]) for before, after in pairwise(names)]
    largest = _node("ReduceMax", [names[-1]], ["largest_state"], keepdims=0)
    start = [
        _node("ReduceMax", ["exact"], ["some_count"], keepdims=0),
        _node("Mul", ["some_count", "nothing"], ["zero"]),
        _node("Add", ["state", "zero"], ["first_state"]),
    ]
    return [*start, *products, largest, _node("Mul", ["largest_state", "nothing"], ["no_effect"])]


def _probabilities(multi_label: bool) -> list[onnx.NodeProto]:
    chances = _node("Sigmoid", ["scaled"], ["probabilities"])
    if not multi_label:
        chances = _node("Softmax", ["scaled"], ["probabilities"], axis=-1)
    return [_node("Div", ["logits", "temperature"], ["scaled"]), chances]


def _write(
    directory: Path,
    features: dict[str, FeatureInput],
    inputs: tuple[TensorSpec, ...],
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    classes: tuple[str, ...] = (),
    multi_label: bool = False,
) -> Bundle:
    outputs = (
        tuple(
            TensorSpec(name=name, dtype="float32", axes=("batch", len(classes))) for name in ("logits", "probabilities")
        )
        if classes
        else (TensorSpec(name="values", dtype="float32", axes=("batch", 2)),)
    )
    if classes:
        constants = {**constants, "temperature": np.array(TEMPERATURE, np.float32)}

    def described(specs: tuple[TensorSpec, ...]) -> list[Any]:
        return [helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], spec.axes) for spec in specs]

    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", described(inputs), described(outputs), weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 2)], ir_version=9
    )
    onnx.checker.check_model(model)
    texts = {name: "source.vocab" for name, one in features.items() if one.kind == "text"}
    manifest = Manifest(
        task="classify" if classes else "regress",
        name=directory.name,
        inputs=inputs,
        outputs=outputs,
        tokenizers=texts,
        features=features,
        classes=classes,
        multi_label=multi_label,
        temperature=TEMPERATURE if classes else 1.0,
        variants={"cpu-float32": Variant(file="model.onnx", target="cpu", precision="float32")},
        default_variant="cpu-float32",
    )
    vocabulary = {"source.vocab": ByteTokenizer().to_bytes()} if texts else {}
    return write_bundle(directory, manifest, {"model.onnx": model.SerializeToString(), **vocabulary})
