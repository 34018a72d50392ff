"""From a search's records to its hypotheses, as ONNX nodes: models/backtrace.py with a Scan, last step first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import onnx
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper

from t2tdeploy.export.forward import BATCH, BEAM, RECORDS, SOURCE_LENGTH, STEPS, Example, trace
from t2tdeploy.export.kept import kept
from t2tdeploy.export.naming import prefixed
from t2tdeploy.models.backtrace import Ends, SearchResult, find_ends, to_result, trace_step
from t2tdeploy.models.search import StepRecord

HYPOTHESES = 2  # of the examples to trace

ENDS = tuple(f"end_{name}" for name in Ends._fields)
TRACED = ("traced_ids", "traced_log_probs", "traced_attention")


@dataclass(frozen=True)
class BacktracePieces:
    """Graphs to assemble.

    Args:
        ends: beam_finished_*_final, all_step_scores, max_length -> all_END for every END of `ENDS`.
        step: beams, position, record, attention, ends -> beams_next, `TRACED` of this step.
        result: ends, all_TRACED of all steps -> the search's outputs.
    """

    ends: onnx.ModelProto
    step: onnx.ModelProto
    result: onnx.ModelProto


@cache
def export_backtrace() -> BacktracePieces:
    """The same for every model."""
    return BacktracePieces(**kept("backtrace", _traced))


def _traced() -> dict[str, onnx.ModelProto]:
    ids, scores, found = ("batch", "beam"), torch.zeros(BATCH, BEAM), ("batch", "hypotheses")
    some = torch.zeros(BATCH, HYPOTHESES)
    dtypes = {"scores": torch.float32, "log_probs": torch.float32}
    ends = [
        Example(name, some.to(dtypes.get(field, torch.int64)), found)
        for name, field in zip(ENDS[:-1], Ends._fields[:-1], strict=True)
    ]
    ends.append(Example(ENDS[-1], some[:, 0] > 0, ("batch",)))
    record = [
        Example(name, scores.to(dtypes.get(field, torch.int64)), ids)
        for name, field in zip(RECORDS, StepRecord._fields, strict=True)
    ]
    traced, looked = torch.zeros(STEPS, BATCH, HYPOTHESES), torch.zeros(STEPS, BATCH, HYPOTHESES, SOURCE_LENGTH)
    return {
        "ends": trace(
            find_ends,
            [
                Example("beam_finished_scores_final", scores, ids),
                Example("beam_finished_log_probs_final", scores, ids),
                Example("beam_finished_ends_final", scores.long(), ids),
                Example("all_step_scores", torch.zeros(STEPS, BATCH, BEAM), ("steps", *ids)),
                Example("max_length", torch.full((BATCH,), 40), ("batch",)),
            ],
            [f"all_{name}" for name in ENDS],
        ),
        "step": trace(
            lambda beams, position, record, attention, ends: trace_step(
                beams, position, StepRecord(*record), attention, Ends(*ends)
            ),
            [
                Example("beams", some.long(), found),
                Example("position", torch.tensor(3), ()),
                record,
                Example("step_attention", torch.zeros(BATCH, BEAM, SOURCE_LENGTH), (*ids, "source_length")),
                ends,
            ],
            ["beams_next", *TRACED],
        ),
        "result": trace(
            lambda ends, ids, log_probs, attention: to_result(Ends(*ends), ids, log_probs, attention),
            [
                ends,
                Example("all_traced_ids", traced.long(), ("steps", *found)),
                Example("all_traced_log_probs", traced, ("steps", *found)),
                Example("all_traced_attention", looked, ("steps", *found, "source_length")),
            ],
            SearchResult._fields,
        ),
    }


def backtrace_graph(pieces: BacktracePieces, limits: str = "max_length") -> GraphProto:
    """Nodes and constants of what follows the Loop: where hypotheses end, the Scan back from there, the outputs.

    Args:
        limits: name of the rows' max_length.
    """
    node = helper.make_node
    ends, step, result = (
        prefixed(pieces.ends, "ends", {"max_length": limits}),
        prefixed(pieces.step, "backtrace"),
        prefixed(pieces.result, "result"),
    )
    cut = [
        node("Identity", [f"all_{name}"], [name])
        if name == "end_finished"
        else node("Slice", [f"all_{name}", "zero", "asked", "one"], [name])
        for name in ENDS
    ]
    graph = GraphProto()
    graph.node.extend([
        *ends.node,
        node("Reshape", ["num_hypotheses", "one"], ["asked"]),
        *cut,
        node("Shape", ["all_step_scores"], ["steps_taken"], start=0, end=1),
        node("Squeeze", ["steps_taken"], ["step_count"]),
        node("Range", ["zero_scalar", "step_count", "one_scalar"], ["positions"]),
        node("Concat", ["batch_size", "steps_taken", "beam_count", "source_size"], ["attention_shape"], axis=0),
        node("Reshape", ["beam_history_attention_final", "attention_shape"], ["attention_of_steps"]),
        _scan(list(step.node)),
        *result.node,
    ])  # fmt: skip
    graph.initializer.extend([*ends.initializer, *step.initializer, *result.initializer])
    return graph


def _scan(step: list[NodeProto]) -> NodeProto:
    """The backtrace: reads `end_beams`, `positions`, the Loop's records [steps, batch, beam] and `attention_of_steps`
    [batch, steps, beam, source_length]; makes `TRACED` [steps, batch, hypotheses, …].

    Args:
        step: nodes of BacktracePieces.step, with its own names for what crosses.
    """
    integers, floats = TensorProto.INT64, TensorProto.FLOAT
    info = helper.make_tensor_value_info
    inputs = [
        info("beams", integers, ["batch", "hypotheses"]),
        info("position", integers, []),
        *(info(name, floats if name == "step_scores" else integers, ["batch", "beam"]) for name in RECORDS),
        info("step_attention", floats, ["batch", "beam", "source_length"]),
    ]
    outputs = [
        info("beams_next", integers, ["batch", "hypotheses"]),
        info("traced_ids", integers, ["batch", "hypotheses"]),
        info("traced_log_probs", floats, ["batch", "hypotheses"]),
        info("traced_attention", floats, ["batch", "hypotheses", "source_length"]),
    ]
    scanned = ["positions", *(f"all_{name}" for name in RECORDS), "attention_of_steps"]
    return helper.make_node(
        "Scan",
        ["end_beams", *scanned],
        ["first_beams", *(f"all_{name}" for name in TRACED)],
        name="backtrace",
        body=helper.make_graph(step, "backtrace_step", inputs, outputs),
        num_scan_inputs=len(scanned),
        scan_input_axes=[*[0] * (len(scanned) - 1), 1],
        scan_input_directions=[1] * len(scanned),
        scan_output_directions=[1] * len(TRACED),
    )
