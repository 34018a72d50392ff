"""The toy bundle with a graph that also tells its tokens' scores and what it looked at.

Token t of hypothesis h has the log-probability -(h + 1) · (t + 1) / 20, and looks at source token s with
softmax(-(s - t)² / 4).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from t2tdeploy.bundle import Bundle, write_bundle
from tests.serving.toy_bundle import toy_files, toy_graph, toy_manifest

_DETAILS = {
    "token_scores": ("batch", "hypotheses", "target_length"),
    "attention": ("batch", "hypotheses", "target_length", "source_length"),
}


def write_attentive_bundle(directory: Path, *, name: str = "toy", extra_length: int = 50) -> Bundle:
    manifest = toy_manifest(name, max_source_length=40)
    decode = manifest.decode.model_copy(update={"extra_length": extra_length})
    graph = with_details(toy_graph(0, 260)).SerializeToString()
    return write_bundle(directory, manifest.model_copy(update={"decode": decode}), {**toy_files(), "model.onnx": graph})


def with_details(model: onnx.ModelProto) -> onnx.ModelProto:
    """`toy_graph` with the further outputs, and the input `prefix` by which sessions know such graphs."""
    node = helper.make_node
    constants = {
        "last": np.array(2, np.int64),
        "token_step": np.array(-0.05, np.float32),
        "sharpness": np.array(-0.25, np.float32),
        "one_float": np.array(1, np.float32),
        "prefix": np.zeros((0, 0), np.int64),
    }
    nodes = [
        node("Shape", ["target_ids"], ["target_shape"]),
        node("Gather", ["target_shape", "last"], ["target_length"]),
        node("Range", ["zero", "target_length", "one"], ["positions"]),
        node("Cast", ["positions"], ["places"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["places", "axis1"], ["places2"]),
        node("Sub", ["places2", "places"], ["distance"]),
        node("Mul", ["distance", "distance"], ["squares"]),
        node("Mul", ["squares", "sharpness"], ["logits"]),
        node("Softmax", ["logits"], ["looks"], axis=-1),
        node("Unsqueeze", ["target_length", "zero1"], ["target_length1"]),
        node("Concat", ["target_shape", "target_length1"], ["attention_shape"], axis=0),
        node("Expand", ["looks", "attention_shape"], ["attention"]),
        node("Add", ["places", "one_float"], ["counts"]),
        node("Add", ["hypothesis_float", "one_float"], ["ranks"]),
        node("Unsqueeze", ["ranks", "axis1"], ["ranks2"]),
        node("Mul", ["ranks2", "counts"], ["products"]),
        node("Mul", ["products", "token_step"], ["steps_down"]),
        node("Expand", ["steps_down", "target_shape"], ["token_scores"]),
    ]
    graph = model.graph
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.input.append(helper.make_tensor_value_info("prefix", TensorProto.INT64, ("batch", "prefix_length")))
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in _DETAILS.items())
    onnx.checker.check_model(model)
    return model
