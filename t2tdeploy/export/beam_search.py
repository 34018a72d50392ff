"""Puts the pieces of a search into one ONNX graph: encoder, Loops over segments and steps, Scan back to the hypotheses.

Weights and the encoder's memory are captured by the Loop's body from the graph around it, so that nothing of them is
copied per step or per beam; sentences that are done before others leave the batch (export/segments.py). The layout is
`growing`: caches and sequences get one position longer a step.

    source_ids [batch, source_length], max_length [batch], beam_size [], alpha [], num_hypotheses []
      and the controls of models/controls.py, each with a default
      -> target_ids [batch, hypotheses, target_length], scores, lengths [batch, hypotheses], finished [batch],
         token_scores [batch, hypotheses, target_length], attention [batch, hypotheses, target_length, source_length]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from t2tdeploy.errors import OperationalError
from t2tdeploy.export.backtrace import BacktracePieces, backtrace_graph, export_backtrace
from t2tdeploy.export.forward import IR_VERSION, OPSET_VERSION, Axes, SearchPieces, export_pieces
from t2tdeploy.export.loop_body import LoopBody
from t2tdeploy.export.naming import prefixed
from t2tdeploy.export.segments import Segments
from t2tdeploy.export.weights import share_weights
from t2tdeploy.features import PAD_ID
from t2tdeploy.models.model import Model

LARGEST_PROTOBUF_BYTES = 2**31 - 1

Signature = dict[str, tuple[int, Axes]]

INPUTS: Signature = {
    "source_ids": (TensorProto.INT64, ("batch", "source_length")),
    "max_length": (TensorProto.INT64, ("batch",)),
    "beam_size": (TensorProto.INT64, ()),
    "alpha": (TensorProto.FLOAT, ()),
    "num_hypotheses": (TensorProto.INT64, ()),
    "min_length": (TensorProto.INT64, ("batch_or_one",)),
    "prefix": (TensorProto.INT64, ("batch_or_one", "prefix_length")),
    "suppressed": (TensorProto.INT64, ("suppressed",)),
    "repetition_penalty": (TensorProto.FLOAT, ()),
    "no_repeat_ngram_size": (TensorProto.INT64, ()),
    "coverage_penalty": (TensorProto.FLOAT, ()),
    "temperature": (TensorProto.FLOAT, ()),
    "top_k": (TensorProto.INT64, ()),
    "top_p": (TensorProto.FLOAT, ()),
    "uniforms": (TensorProto.FLOAT, ("batch_or_one", "beam_or_one", "steps")),
    "patience": (TensorProto.FLOAT, ()),
}
DEFAULTS: dict[str, npt.NDArray[np.generic]] = {
    "min_length": np.zeros(1, np.int64),
    "prefix": np.zeros((1, 0), np.int64),
    "suppressed": np.zeros(0, np.int64),
    "repetition_penalty": np.array(1, np.float32),
    "no_repeat_ngram_size": np.array(0, np.int64),
    "coverage_penalty": np.array(0, np.float32),
    "temperature": np.array(0, np.float32),
    "top_k": np.array(0, np.int64),
    "top_p": np.array(1, np.float32),
    "uniforms": np.zeros((1, 1, 0), np.float32),
    "patience": np.array(np.inf, np.float32),
}
"""Of the inputs that a caller may leave out: initializers of the same name."""

OUTPUTS: Signature = {
    "target_ids": (TensorProto.INT64, ("batch", "hypotheses", "target_length")),
    "scores": (TensorProto.FLOAT, ("batch", "hypotheses")),
    "lengths": (TensorProto.INT64, ("batch", "hypotheses")),
    "finished": (TensorProto.BOOL, ("batch",)),
    "token_scores": (TensorProto.FLOAT, ("batch", "hypotheses", "target_length")),
    "attention": (TensorProto.FLOAT, ("batch", "hypotheses", "target_length", "source_length")),
}


def export_beam_search(model: Model, *, apart: bool | None = None) -> ModelProto:
    """The whole search of `model` as one checked ONNX model.

    Args:
        apart: see `export_pieces`.

    Raises:
        torch.onnx.OnnxExporterError: the model has an operator that ONNX cannot express.
        OperationalError: the graph is too large for one file, or a state has an axis that the search does not know.
        onnx.checker.ValidationError: the assembled graph is not valid.
    """
    return assemble(export_pieces(model, apart=apart), export_backtrace())


def assemble(pieces: SearchPieces, backtrace: BacktracePieces) -> ModelProto:
    """Joins the pieces. See the head of this file for the inputs and outputs."""
    body = LoopBody(pieces)
    start_nodes = _initial_values(pieces.handed_on(), body.types)
    search = Segments(pieces, body)
    before = [prefixed(pieces.encoder, "encoder"), prefixed(pieces.prelude, "prelude")]
    after = backtrace_graph(backtrace)
    nodes = [*start_nodes, *(node for graph in before for node in graph.node), *search.nodes, *after.node]
    weights = [tensor for graph in (*before, *body.parts, after) for tensor in graph.initializer]
    return checked_model("beam_search", nodes, INPUTS, [*_constants(), *search.constants, *weights])


def checked_model(
    name: str, nodes: Sequence[NodeProto], inputs: Signature, initializers: Sequence[TensorProto]
) -> ModelProto:
    """A search's graph with `OUTPUTS`, each weight once.

    Raises:
        OperationalError: it is too large for one file.
        onnx.checker.ValidationError: it is not valid.
    """
    graph = helper.make_graph(nodes, name, _infos(inputs), _infos(OUTPUTS), initializers)
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


_FILL: dict[str, float | int] = {
    "beam_finished_scores": -np.inf,
    "beam_finished_log_probs": -np.inf,
    "beam_finished_ends": -1,
    "beam_tokens": PAD_ID,
}


def _initial_values(handed_on: dict[str, Axes], types: dict[str, int]) -> list[NodeProto]:
    """Nodes that make NAME_start, the state before the first step (models/search.py: initial_state)."""
    node = helper.make_node
    nodes = [
        node("Shape", ["source_ids"], ["batch_size"], start=0, end=1),
        node("Reshape", ["batch_size", "scalar_shape"], ["batch_scalar"]),
        node("Shape", ["source_ids"], ["source_size"], start=1, end=2),
        node("Reshape", ["beam_size", "one"], ["beams_asked"]),
        node("Mul", ["batch_size", "beams_asked"], ["rows_asked"]),
        # On CPUs some versions of onnxruntime die of a division by zero where there is no row, or no beam: an index
        # beyond the end is an error instead.
        node("Min", ["rows_asked", "one"], ["one_if_asked"]),
        node("Sub", ["one", "one_if_asked"], ["zero_if_asked"]),
        node("Gather", ["beams_asked", "zero_if_asked"], ["beam_count"], name="there_must_be_a_source_and_a_beam"),
        node("Mul", ["batch_size", "beam_count"], ["row_count"]),
        node("ReduceMax", ["max_length"], ["longest"], keepdims=0),
        node("Range", ["zero_scalar", "beam_size", "one_scalar"], ["beam_index"]),
        node("Equal", ["beam_index", "zero_scalar"], ["is_first_beam"]),
        node("Greater", ["temperature", "certain"], ["sampling"]),
        node("Greater", ["no_repeat_ngram_size", "zero_scalar"], ["repeating"]),
        node("Or", ["is_first_beam", "sampling"], ["starts_alive"]),
        node("Where", ["starts_alive", "certain", "never"], ["first_scores"]),
        node("Concat", ["batch_size", "beam_count"], ["batch_beam"], axis=0),
        node("Expand", ["first_scores", "batch_beam"], ["beam_alive_scores_start"]),
        node("Unsqueeze", ["beam_index", "one"], ["beam_index_column"]),
        node("Equal", ["beam_index_column", "beam_index"], ["one_itself"]),
        node("Concat", ["batch_beam", "beam_count"], ["batch_beam_beam"], axis=0),
        node("Expand", ["one_itself", "batch_beam_beam"], ["itself"]),
        node("Expand", ["min_length", "batch_size"], ["row_min_length"]),
        node("Concat", ["batch_size", "one"], ["batch_one"], axis=0),
        node("Expand", ["prefix", "batch_one"], ["row_prefix"]),
        node("Concat", ["batch_one", "one"], ["batch_one_one"], axis=0),
        node("Expand", ["uniforms", "batch_one_one"], ["row_uniforms"]),
    ]
    sizes = {
        "batch": "batch_size",
        "beam": "beam_count",
        "rows": "row_count",
        "source_length": "source_size",
        "target_length": "zero",
        "history": "zero",
        "past": "one",
    }
    for name, axes in handed_on.items():
        if name == "beam_alive_scores":
            continue
        value = helper.make_tensor("value", types[name], [1], [_FILL.get(name, 0)])
        parts = [_size_of(axis, sizes, nodes) for axis in axes]
        shape = f"{name}_shape"
        nodes.append(node("Concat", parts, [shape], axis=0) if parts else node("Identity", ["scalar_shape"], [shape]))
        nodes.append(node("ConstantOfShape", [shape], [f"{name}_start"], value=value))
    return nodes


def _size_of(axis: str | int, sizes: dict[str, str], nodes: list[NodeProto]) -> str:
    """Name of the tensor [1] that holds the size of `axis`; a fixed size becomes a constant when first met."""
    if isinstance(axis, str):
        if axis not in sizes:
            known = ", ".join(name for name in sizes if name != "past" and not name.startswith("size_"))
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


def _constants() -> list[TensorProto]:
    values: dict[str, npt.NDArray[np.generic]] = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "zero_scalar": np.array(0),
        "one_scalar": np.array(1),
        "scalar_shape": np.array([], np.int64),
        "always": np.array(True),
        "unbanned": np.array(False),
        "certain": np.array(0.0, np.float32),
        "never": np.array(-np.inf, np.float32),
    }
    return [numpy_helper.from_array(value, name) for name, value in {**values, **DEFAULTS}.items()]


def _infos(tensors: Signature) -> Sequence[ValueInfoProto]:
    return [helper.make_tensor_value_info(name, kind, list(axes)) for name, (kind, axes) in tensors.items()]
