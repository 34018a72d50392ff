"""Puts the pieces of a search into one ONNX graph: encoder, Loop over the step, choice of the results.

Weights and the encoder's memory are captured by the Loop's body from the graph around it, so that nothing of them is
copied per step or per beam. The layout is `growing`: caches and sequences get one position longer a step.

    source_ids [batch, source_length], max_length [batch], beam_size [], alpha [], num_hypotheses []
      -> target_ids [batch, hypotheses, target_length], scores, lengths [batch, hypotheses], finished [batch]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from t2tdeploy.errors import OperationalError
from t2tdeploy.export.forward import IR_VERSION, OPSET_VERSION, SearchPieces, export_pieces
from t2tdeploy.export.weights import share_weights
from t2tdeploy.features import PAD_ID
from t2tdeploy.models.model import Model

LARGEST_PROTOBUF_BYTES = 2**31 - 1

INPUTS: dict[str, tuple[int, tuple[str | int, ...]]] = {
    "source_ids": (TensorProto.INT64, ("batch", "source_length")),
    "max_length": (TensorProto.INT64, ("batch",)),
    "beam_size": (TensorProto.INT64, ()),
    "alpha": (TensorProto.FLOAT, ()),
    "num_hypotheses": (TensorProto.INT64, ()),
}
OUTPUTS: dict[str, tuple[int, tuple[str | int, ...]]] = {
    "target_ids": (TensorProto.INT64, ("batch", "hypotheses", "target_length")),
    "scores": (TensorProto.FLOAT, ("batch", "hypotheses")),
    "lengths": (TensorProto.INT64, ("batch", "hypotheses")),
    "finished": (TensorProto.BOOL, ("batch",)),
}


def export_beam_search(model: Model) -> ModelProto:
    """The whole search of `model` as one checked ONNX model.

    Raises:
        torch.onnx.OnnxExporterError: the model has an operator that ONNX cannot express.
        OperationalError: the graph is too large for one file, or a state has an axis that the search does not know.
        onnx.checker.ValidationError: the assembled graph is not valid.
    """
    return assemble(export_pieces(model))


def assemble(pieces: SearchPieces) -> ModelProto:
    """Joins the pieces. See the head of this file for the inputs and outputs."""
    shared = {*INPUTS, *pieces.memory}
    encoder = _prefixed(pieces.encoder.graph, "encoder", shared)
    step = _prefixed(pieces.step.graph, "step", {*shared, *pieces.carried, *_next_names(pieces)})
    chosen = _prefixed(pieces.results.graph, "results", {*shared, *(f"all_{name}" for name in OUTPUTS)})
    types = {value.name: value.type.tensor_type.elem_type for value in pieces.step.graph.input}
    start_nodes, start = _initial_values(pieces, types)
    final = [f"{name}_final" for name in pieces.carried]
    _rename_inputs(chosen, {f"results/{name}": f"{name}_final" for name in pieces.carried})
    loop = helper.make_node(
        "Loop", ["longest", "always", *start], final, name="search", body=_loop_body(pieces, step, types)
    )
    nodes = [*encoder.node, *start_nodes, loop, *chosen.node, *_outputs()]
    initializers = [*_constants(), *encoder.initializer, *step.initializer, *chosen.initializer]
    graph = helper.make_graph(nodes, "beam_search", _infos(INPUTS), _infos(OUTPUTS), initializers)
    share_weights(graph)
    result = helper.make_model(
        graph,
        producer_name="t2tdeploy",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET_VERSION)],
    )
    if result.ByteSize() > LARGEST_PROTOBUF_BYTES:
        raise OperationalError(
            f"the graph has {result.ByteSize() / 2**30:.1f} GiB; one ONNX file holds 2 GiB",
            help="train a smaller model",
        )
    onnx.checker.check_model(result, full_check=True)
    return result


def _next_names(pieces: SearchPieces) -> list[str]:
    return ["go_on", *(f"{name}_next" for name in pieces.carried)]


def _prefixed(graph: GraphProto, prefix: str, keep: set[str]) -> GraphProto:
    """A copy of `graph` whose names start with `prefix/`, except those in `keep`."""
    copy = GraphProto()
    copy.CopyFrom(graph)

    def new(name: str) -> str:
        return name if name in keep or not name else f"{prefix}/{name}"

    _rename(copy, new)
    return copy


def _rename(graph: GraphProto, new: Callable[[str], str]) -> None:
    """Renames every tensor and node, in subgraphs (If, Loop, Scan) too."""
    for node in graph.node:
        node.name = new(node.name)
        node.doc_string = ""
        del node.metadata_props[:]  # the exporter's stack traces: most of a small file
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, new)
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for value in (*graph.input, *graph.output):
        value.name = new(value.name)
    del graph.value_info[:]


def _rename_inputs(graph: GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _loop_body(pieces: SearchPieces, step: GraphProto, types: dict[str, int]) -> GraphProto:
    """The step as a Loop body: (iteration, condition, carried) -> (go_on, carried_next)."""
    inputs = [
        helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
        helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])]
    for name, axes in zip(pieces.carried, pieces.carried_axes, strict=True):
        growing = [None if axis in ("target_length", "history") else axis for axis in axes]
        inputs.append(helper.make_tensor_value_info(name, types[name], growing))
        outputs.append(helper.make_tensor_value_info(f"{name}_next", types[name], growing))
    return helper.make_graph(list(step.node), "step", inputs, outputs)


_FILL: dict[str, float | int] = {
    "beam_finished_scores": -np.inf,
    "beam_tokens": PAD_ID,
}


def _initial_values(pieces: SearchPieces, types: dict[str, int]) -> tuple[list[NodeProto], list[str]]:
    """Nodes that make the state before the first step (models/search.py: initial_state), and its names."""
    node = helper.make_node
    nodes = [
        node("Shape", ["source_ids"], ["batch_size"], start=0, end=1),
        node("Shape", ["source_ids"], ["source_size"], start=1, end=2),
        node("Reshape", ["beam_size", "one"], ["beam_count"]),
        node("Mul", ["batch_size", "beam_count"], ["row_count"]),
        node("ReduceMax", ["max_length"], ["longest"], keepdims=0),
        node("Range", ["zero_scalar", "beam_size", "one_scalar"], ["beam_index"]),
        node("Equal", ["beam_index", "zero_scalar"], ["is_first_beam"]),
        node("Where", ["is_first_beam", "certain", "never"], ["first_scores"]),
        node("Concat", ["batch_size", "beam_count"], ["batch_beam"], axis=0),
        node("Expand", ["first_scores", "batch_beam"], ["beam_alive_scores_start"]),
    ]
    sizes = {
        "batch": "batch_size",
        "beam": "beam_count",
        "rows": "row_count",
        "source_length": "source_size",
        "target_length": "zero",
        "history": "zero",
    }
    start = []
    for name, axes in zip(pieces.carried, pieces.carried_axes, strict=True):
        start.append(f"{name}_start")
        if name == "beam_alive_scores":
            continue
        value = helper.make_tensor("value", types[name], [1], [_FILL.get(name, 0)])
        parts = [_size_of(axis, sizes, nodes) for axis in axes]
        shape = f"{name}_shape"
        nodes.append(node("Concat", parts, [shape], axis=0) if parts else node("Identity", ["scalar_shape"], [shape]))
        nodes.append(node("ConstantOfShape", [shape], [start[-1]], value=value))
    return nodes, start


def _size_of(axis: str | int, sizes: dict[str, str], nodes: list[NodeProto]) -> str:
    """Name of the tensor [1] that holds the size of `axis`; a fixed size becomes a constant when first met."""
    if isinstance(axis, str):
        if axis not in sizes:
            known = ", ".join(name for name in sizes if not name.startswith("size_"))
            raise OperationalError(
                f"the decoding state has an axis '{axis}' of unknown size",
                help=f"in state_axes, use numbers or the axes {known}",
            )
        return sizes[axis]
    name = f"size_{axis}"
    if name not in sizes:
        sizes[name] = name
        nodes.append(helper.make_node("Constant", [], [name], value_ints=[axis]))
    return name


def _outputs() -> list[NodeProto]:
    """Cuts the K hypotheses of the search down to those asked for."""
    cut = [
        helper.make_node("Slice", [f"all_{name}", "zero", "asked", "one"], [name])
        for name in ("target_ids", "scores", "lengths")
    ]
    return [
        helper.make_node("Reshape", ["num_hypotheses", "one"], ["asked"]),
        *cut,
        helper.make_node("Identity", ["all_finished"], ["finished"]),
    ]


def _constants() -> list[TensorProto]:
    values = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "zero_scalar": np.array(0),
        "one_scalar": np.array(1),
        "scalar_shape": np.array([], np.int64),
        "always": np.array(True),
        "certain": np.array(0.0, np.float32),
        "never": np.array(-np.inf, np.float32),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _infos(tensors: dict[str, tuple[int, tuple[str | int, ...]]]) -> Sequence[ValueInfoProto]:
    return [helper.make_tensor_value_info(name, kind, list(axes)) for name, (kind, axes) in tensors.items()]
