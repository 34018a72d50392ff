"""A bundle without a model: a small graph with the inputs and outputs of an exported one.

It "translates" a sentence into itself, once per hypothesis. Hypothesis h scores -(h + alpha) * max_length: every input
leaves a trace in the outputs. `steps` slows it down: that many matrix products per unit of the batch's largest
max_length, so that `extra_length` makes a request slow. With alpha = ENDLESS_ALPHA it takes minutes, whatever `steps`
is. Ids from `known_ids` on make the whole run fail.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from t2tdeploy.bundle import Bundle, DecodeDefaults, Manifest, TensorSpec, Variant, write_bundle
from t2tdeploy.tokenizer import ByteTokenizer, Tokenizer, train_tokenizer

ENDLESS_ALPHA = 10.0
INPUTS = (
    TensorSpec(name="source_ids", dtype="int64", axes=("batch", "source_length")),
    TensorSpec(name="max_length", dtype="int64", axes=("batch",)),
    TensorSpec(name="beam_size", dtype="int64", axes=()),
    TensorSpec(name="alpha", dtype="float32", axes=()),
    TensorSpec(name="num_hypotheses", dtype="int64", axes=()),
)
OUTPUTS = (
    TensorSpec(name="target_ids", dtype="int64", axes=("batch", "hypotheses", "target_length")),
    TensorSpec(name="scores", dtype="float32", axes=("batch", "hypotheses")),
    TensorSpec(name="lengths", dtype="int64", axes=("batch", "hypotheses")),
    TensorSpec(name="finished", dtype="bool", axes=("batch",)),
)
_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "bool": TensorProto.BOOL}


def toy_manifest(name: str = "toy", max_source_length: int = 200, beam_size: int = 4) -> Manifest:
    return Manifest(
        name=name,
        inputs=INPUTS,
        outputs=OUTPUTS,
        tokenizers={"inputs": "shared.vocab", "targets": "shared.vocab"},
        decode=DecodeDefaults(beam_size=beam_size, alpha=0.6, extra_length=50, max_source_length=max_source_length),
        variants={
            "cpu-float32": Variant(file="model.onnx", target="cpu", precision="float32", layout="growing"),
        },
        default_variant="cpu-float32",
    )


def toy_files(
    steps: int = 0, known_ids: int = ByteTokenizer.vocab_size, tokenizer: Tokenizer | None = None
) -> dict[str, bytes | Path]:
    vocabulary = (tokenizer or ByteTokenizer()).to_bytes()
    return {"model.onnx": toy_graph(steps, known_ids).SerializeToString(), "shared.vocab": vocabulary}


def write_toy_bundle(
    directory: Path,
    *,
    steps: int = 0,
    max_source_length: int = 200,
    beam_size: int = 4,
    known_ids: int = ByteTokenizer.vocab_size,
    tokenizer: Tokenizer | None = None,
) -> Bundle:
    manifest = toy_manifest(max_source_length=max_source_length, beam_size=beam_size)
    return write_bundle(directory, manifest, toy_files(steps, known_ids, tokenizer))


def small_tokenizer() -> Tokenizer:
    """A vocabulary of so few entries that a beam of 16 does not fit it."""
    return train_tokenizer(["ab ba"] * 9, kind="bpe", vocab_size=9, sample_size=200, byte_fallback=False)


def toy_graph(steps: int, known_ids: int) -> onnx.ModelProto:
    node = helper.make_node
    constants = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "axis1": np.array([1], np.int64),
        "steps": np.array(steps, np.int64),
        "endless_alpha": np.array(ENDLESS_ALPHA, np.float32),
        "endless_steps": np.array(10_000_000, np.int64),
        "yes": np.array(True),
        "state": np.full((128, 128), 1 / 128, np.float32),
        "nothing": np.array(0, np.float32),
        "embedding": np.arange(known_ids, dtype=np.int64),
    }
    nodes = [
        # target_ids: the source, looked up in a table and repeated
        node("Gather", ["embedding", "source_ids"], ["known_source_ids"]),
        node("Unsqueeze", ["num_hypotheses", "zero1"], ["count"]),
        node("Concat", ["one1", "count", "one1"], ["repeats"], axis=0),
        node("Unsqueeze", ["known_source_ids", "axis1"], ["source_ids3"]),
        node("Tile", ["source_ids3", "repeats"], ["target_ids"]),
        # lengths: the tokens that are not PAD
        node("Cast", ["source_ids"], ["real"], to=TensorProto.BOOL),
        node("Cast", ["real"], ["real_int"], to=TensorProto.INT64),
        node("ReduceSum", ["real_int", "axis1"], ["length"], keepdims=1),
        node("Concat", ["one1", "count"], ["row"], axis=0),
        node("Tile", ["length", "row"], ["lengths"]),
        node("ReduceMin", ["lengths", "axis1"], ["shortest"], keepdims=0),
        node("LessOrEqual", ["shortest", "max_length"], ["finished"]),
        # a Loop that takes its time and adds zero to the scores
        node("ReduceMax", ["max_length"], ["longest"], keepdims=0),
        node("Mul", ["longest", "steps"], ["usual_trips"]),
        node("Equal", ["alpha", "endless_alpha"], ["endless"]),
        node("Cast", ["endless"], ["endless_int"], to=TensorProto.INT64),
        node("Mul", ["endless_int", "endless_steps"], ["endless_trips"]),
        node("Add", ["usual_trips", "endless_trips"], ["trips"]),
        node("Loop", ["trips", "yes", "state"], ["last_state"], body=_slow_step()),
        node("ReduceMax", ["last_state"], ["largest"], keepdims=0),
        node("Mul", ["largest", "nothing"], ["no_effect"]),
        # scores
        node("Range", ["zero", "num_hypotheses", "one"], ["hypothesis"]),
        node("Cast", ["hypothesis"], ["hypothesis_float"], to=TensorProto.FLOAT),
        node("Add", ["hypothesis_float", "alpha"], ["penalty"]),
        node("Neg", ["penalty"], ["score_per_token"]),
        node("Unsqueeze", ["max_length", "axis1"], ["max_length2"]),
        node("Cast", ["max_length2"], ["max_length_float"], to=TensorProto.FLOAT),
        node("Mul", ["max_length_float", "score_per_token"], ["exact_scores"]),
        node("Add", ["exact_scores", "no_effect"], ["scores"]),
    ]
    constants |= {"zero1": np.array([0], np.int64), "one1": np.array([1], np.int64)}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], spec.axes) for spec in INPUTS],
        [helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], spec.axes) for spec in OUTPUTS],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _slow_step() -> onnx.GraphProto:
    return helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "before"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, (128, 128)),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, (128, 128)),
        ],
    )
