"""The search as one ONNX graph in which every tensor that the Loop carries keeps its shape, for TensorRT.

    source_ids [batch, source_length], max_length [batch]
      -> target_ids [batch, hypotheses, target_length], … as export/beam_search.py

Beam, length penalty, number of hypotheses and controls are constants: see models/static.py. The Loop has room for
source_length + extra_length steps, so target_length is that, with PAD behind; whoever needs more steps pads the source,
which changes no result. The Loop also ends when that many steps are taken, whatever its condition says.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor

from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.export.backtrace import backtrace_graph, export_backtrace
from t2tdeploy.export.beam_search import INPUTS, Signature, checked_model
from t2tdeploy.export.forward import (
    BATCH,
    RECORDS,
    SOURCE_LENGTH,
    STATE_AXES,
    Axes,
    Example,
    trace,
)
from t2tdeploy.export.half import halved
from t2tdeploy.export.naming import prefixed
from t2tdeploy.export.tensorrt_operators import require_supported
from t2tdeploy.models.model import Model
from t2tdeploy.models.search import BeamState, StepRecord
from t2tdeploy.models.static import (
    StaticSearch,
    StaticState,
    in_order,
    require_static,
    static_start,
    static_step,
)

STATIC_INPUTS: Signature = {name: INPUTS[name] for name in ("source_ids", "max_length")}
FINISHED = ("beam_finished_scores", "beam_finished_log_probs", "beam_finished_ends")
"""What the backtrace reads of the last state, as `NAME_final`."""


def export_static_search(model: Model, search: StaticSearch) -> ModelProto:
    """The whole search of `model` with fixed sizes, as one checked ONNX model.

    Raises:
        torch.onnx.OnnxExporterError: the model has an operator that ONNX cannot express.
        OperationalError: the model's state grows with every step, or the graph is too large for one file.
        RequestError: `search` asks for what the model does not have.
        onnx.checker.ValidationError: the assembled graph is not valid.
    """
    require_static(model, search)
    model.eval()
    ids = torch.full((BATCH, SOURCE_LENGTH), 3)
    source = Example("source_ids", ids, ("batch", "source_length"))
    carried = _carried(model, search)

    def start(source_ids: Tensor) -> tuple[Tensor, ...]:
        return (*model.encode(source_ids), *_flat(static_start(model, source_ids, search)))

    def step(state: list[Tensor], memory: list[Tensor], source_ids: Tensor, limits: Tensor) -> tuple[Tensor, ...]:
        all_decided, after = static_step(model, _nested(state), memory, source_ids, limits, search)
        return (~all_decided, *_flat(after))

    def finish(state: list[Tensor]) -> tuple[Tensor, ...]:
        records, attention = in_order(_nested(state))
        return (*records, attention)

    with torch.no_grad():
        given = [tensor.contiguous() for tensor in start(ids)]  # strides would be traced
    axes = {**model.memory_axes(), **carried}
    examples = [Example(*item) for item in zip(axes, given, axes.values(), strict=True)]
    memory, state = examples[: -len(carried)], examples[-len(carried) :]
    limits = Example("row_limits", torch.full((BATCH,), 4), ("batch",))
    last = [example._replace(name=f"{example.name}_last") for example in state]
    return _assemble(
        first=trace(start, [source], [*model.memory_axes(), *(f"{name}_start" for name in carried)], model),
        step=trace(step, [state, memory, source, limits], ["go_on", *(f"{name}_next" for name in carried)], model),
        last=trace(finish, [last], [*(f"all_{name}" for name in RECORDS), "beam_history_attention_final"]),
        carried=carried,
        search=search,
    )


def export_variant(
    model: Model, decode: DecodeDefaults, *, precision: Literal["float32", "float16"], num_hypotheses: int = 1
) -> ModelProto:
    """The graph of a bundle's variant for TensorRT: it decodes as the bundle does when a request says nothing.

    The machine that serves makes its engine of it, see export/tensorrt.py: build_engine.

    Args:
        precision: of weights and products; float16 leaves scores in float32.
        num_hypotheses: that every answer has; the more, the later the search may stop.

    Raises:
        RequestError: the beam is larger than half the target vocabulary, or there are more hypotheses than beams.
        OperationalError: the model's state grows with every step, or the graph is too large for one file.
        InputError: TensorRT lacks an operator of the model.
    """
    search = StaticSearch(decode.beam_size, decode.alpha, num_hypotheses, decode.extra_length, decode.controls)
    graph = export_static_search(model, search)
    if precision == "float16":
        graph = halved(graph)
    require_supported(graph)
    return graph


def _carried(model: Model, search: StaticSearch) -> dict[str, Axes]:
    """Name -> axes of what the Loop carries."""
    beams = {
        f"beam_{name}": tuple(search.beam_size if axis == "beam" else axis for axis in axes)
        for name, axes in STATE_AXES.items()
    }
    records: dict[str, Axes] = {f"recorded_{name}": ("batch", "steps", search.beam_size) for name in StepRecord._fields}
    return {**beams, **records, **model.state_axes()}


def _flat(state: StaticState) -> tuple[Tensor, ...]:
    return (*state.beam, *state.records, *state.model)


def _nested(tensors: list[Tensor]) -> StaticState:
    beam, rest = tensors[: len(BeamState._fields)], tensors[len(BeamState._fields) :]
    records, model = rest[: len(StepRecord._fields)], rest[len(StepRecord._fields) :]
    return StaticState(BeamState(*beam), StepRecord(*records), tuple(model))


def _assemble(
    *, first: ModelProto, step: ModelProto, last: ModelProto, carried: dict[str, Axes], search: StaticSearch
) -> ModelProto:
    """Joins what was traced with the Loop and the backtrace."""
    node = helper.make_node
    before, body, behind = prefixed(first, "start"), prefixed(step, "step"), prefixed(last, "end")
    backtrace = backtrace_graph(export_backtrace(), limits="row_limits")
    sizes = [
        node("Shape", ["source_ids"], ["batch_size"], start=0, end=1),
        node("Shape", ["source_ids"], ["source_size"], start=1, end=2),
        node("Add", ["source_size", "extra_length"], ["step_limit"]),
        node("Squeeze", ["step_limit", "zero"], ["trip_count"]),
        node("Min", ["max_length", "step_limit"], ["row_limits"]),
    ]
    loop = node(
        "Loop",
        ["trip_count", "always", *(f"{name}_start" for name in carried)],
        [f"{name}_last" for name in carried],
        name="search",
        body=_body(body, carried),
    )
    handed_on = [node("Identity", [f"{name}_last"], [f"{name}_final"]) for name in FINISHED]
    nodes = [*sizes, *before.node, loop, *behind.node, *handed_on, *backtrace.node]
    weights = [tensor for piece in (before, body, behind, backtrace) for tensor in piece.initializer]
    return checked_model("static_beam_search", nodes, STATIC_INPUTS, [*_constants(search), *weights])


def _body(step: GraphProto, carried: dict[str, Axes]) -> GraphProto:
    """(iteration, condition, carried) -> (go_on, carried_next), each of the same shape before and after."""
    info = helper.make_tensor_value_info
    types = {value.name: value.type.tensor_type.elem_type for value in step.input}
    inputs = [info("iteration", TensorProto.INT64, []), info("condition", TensorProto.BOOL, [])]
    inputs += [info(name, types[name], list(axes)) for name, axes in carried.items()]
    outputs = [info("go_on", TensorProto.BOOL, [])]
    outputs += [info(f"{name}_next", types[name], list(axes)) for name, axes in carried.items()]
    return helper.make_graph(list(step.node), "step", inputs, outputs)


def _constants(search: StaticSearch) -> list[TensorProto]:
    values = {
        "always": np.array(True),
        "extra_length": np.array([search.extra_length]),
        "num_hypotheses": np.array(search.num_hypotheses),
        "beam_count": np.array([search.beam_size]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "zero_scalar": np.array(0),
        "one_scalar": np.array(1),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]
