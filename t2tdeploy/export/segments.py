"""Rows that are decided leave the batch: a Loop over segments around the Loop over steps.

Sentences of a batch end at different steps. Those that are decided would be computed with the others until the last of
them is, though nothing of them changes any more: with Multi30k in batches of 16, 45 % of all work
(benchmarks/results/leaving_rows.json). So the inner Loop ends as soon as an eighth of its rows is decided, what they
have come to is put in its place, and the next segment goes on with the others alone. Whole caches are copied then, as a
step's Concat does anyway.

A step copies what it hands on, longer by a position. Of caches it hands on only those of its segment, if the model can
read what is before them apart (models/model.py: takes_past). So a segment also ends after a number of steps, and its
caches are put behind those before: a copy of all in eight steps or more, where there was one in every step.

    rows [open]     which rows of the batch are still open, in their order
    NAME            what steps hand on of the open rows
    past_NAME       of caches, what earlier segments handed on, behind a blank; NAME is empty when a segment begins.
                    The blank is for onnxruntime 1.19, whose products over nothing are not zero
    found_NAME      what all rows of the batch have come to
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from t2tdeploy.export.forward import BY_ROW, RECORDS, Axes, SearchPieces
from t2tdeploy.export.loop_body import SIZES, LoopBody
from t2tdeploy.export.naming import rename_tensors
from t2tdeploy.export.nodes import Nodes

FOUND = ("beam_finished_scores", "beam_finished_log_probs", "beam_finished_ends", "beam_history_attention")
"""What the backtrace reads of the last state, as `NAME_final`."""

_OF_A_ROW: dict[str, Axes] = {
    "source_ids": ("batch", "source_length"),
    "max_length": ("batch",),
    "limit_longest_penalty": ("batch",),
    "itself": ("batch", "beam", "beam"),
    **dict.fromkeys(BY_ROW.values(), ("batch",)),
}
_STAYING = (7, 8)  # a segment goes on while more than this share of its rows is open
# Steps of a segment that has a past, and how many more for one row of beams, which has little to copy.
_STEPS, _MORE_STEPS = 8, 64


class Segments:
    """See the head of this file.

    Attributes:
        nodes: the Loop over segments and what prepares it. It reads NAME_start of everything that `pieces` carries, and
            makes NAME_final of `FOUND` and all_NAME [steps, batch, beam] of `RECORDS`.
        constants: initializers of the nodes.
    """

    def __init__(self, pieces: SearchPieces, body: LoopBody) -> None:
        self._carried, self._types, self._past = pieces.carried, body.types, pieces.past
        self._handed_on = pieces.handed_on()
        self._of_a_row = {**_OF_A_ROW, **{name: axes for name, axes in pieces.memory.items() if "batch" in axes}}
        self._outside, self._inside = Nodes("segments"), Nodes("segment")
        self._record_types = body.record_types
        loop = self._loop(body.graph())
        self.nodes: Sequence[NodeProto] = [*self._outside.nodes, loop]
        self.constants = [*self._outside.constants, *self._inside.constants]

    def _loop(self, steps: GraphProto) -> NodeProto:
        start = [self._outside.op("Range", "zero_scalar", "batch_scalar", "one_scalar")]
        start += [f"{name}_start" for name in (*self._handed_on, *FOUND)]
        nothing = self._outside.op("Concat", "zero", "batch_size", "beam_count", axis=0)
        start += [self._outside.op("ConstantOfShape", nothing, value=self._no_record(name)) for name in RECORDS]
        ends = ["rows_final", *(f"{name}_left" for name in self._handed_on)]
        ends += [*(f"{name}_final" for name in FOUND), *(f"all_{name}" for name in RECORDS)]
        self._outside.op("Reshape", self._most_steps(), "scalar_shape", output="segment_steps")
        return helper.make_node("Loop", ["longest", "always", *start], ends, name="segments", body=self._body(steps))

    def _most_steps(self) -> str:
        """Name of how many steps a segment has at most."""
        if not self._past:
            return "longest"
        # There are rows: else there would be no beam_count to make row_count of (export/beam_search.py).
        return self._outside.op("Add", self._outside.op("Div", _MORE_STEPS, "row_count"), _STEPS)

    def _body(self, steps: GraphProto) -> GraphProto:
        """(iteration, condition, rows, NAME of the open rows, found_NAME, records) -> (go_on, the same)"""
        self._narrow(steps)
        op = self._inside.op
        op("Shape", "rows", output="segment_rows")
        staying, of = _STAYING
        share = op("Div", op("Mul", "segment_rows", [staying]), [of])
        op("Reshape", share, "scalar_shape", output="enough_open")
        for name, past in self._past.items():
            op("Slice", f"{past}_now", [0], [0], [self._carried[name].index("history")], output=f"{name}_now")
        reached = [*(f"{name}_reached" for name in self._carried), *(f"segment_{name}" for name in RECORDS)]
        carried = [f"{name}_now" for name in self._carried]
        self._inside.nodes.append(
            helper.make_node("Loop", ["segment_steps", "always", *carried], reached, name="search", body=steps)
        )
        self._keep_results()
        self._let_go()
        return helper.make_graph(self._inside.nodes, "segment", *self._signature())

    def _narrow(self, steps: GraphProto) -> None:
        """What the steps read of every row, they shall read of the open ones."""
        for name, axes in self._of_a_row.items():
            self._inside.op("Gather", name, "rows", axis=axes.index("batch"), output=f"open_{name}")
        rename_tensors(steps, {name: f"open_{name}" for name in self._of_a_row})
        rename_tensors(steps, {past: f"{past}_now" for past in self._past.values()})

    def _keep_results(self) -> None:
        op = self._inside.op
        counted = op("Range", "zero_scalar", op("Squeeze", "segment_rows"), "one_scalar")
        every = op("Range", "zero_scalar", "batch_scalar", "one_scalar")
        # Of each row of the batch: its place behind the results of all, if it is open, else its own.
        place = op("ScatterElements", every, "rows", op("Add", counted, "batch_size"), axis=0)
        for name in FOUND:
            before = f"found_{name}"
            if name == "beam_history_attention":
                missing = op("Sub", op("Shape", f"{name}_reached", start=1, end=2), op("Shape", before, start=1, end=2))
                blank = op("ConstantOfShape", op("Concat", "batch_size", missing, "source_size", axis=0))
                before = op("Concat", before, blank, axis=1)
            op("Gather", op("Concat", before, f"{name}_reached", axis=0), place, axis=0, output=f"found_{name}_next")
        # The same for the records of these steps, of which rows that have left have none.
        gone = op("Expand", "segment_rows", "batch_size")
        place = op("ScatterElements", gone, "rows", counted, axis=0)
        for name in RECORDS:
            shape = op("Concat", op("Shape", f"segment_{name}", start=0, end=1), "one", "beam_count", axis=0)
            none = op("ConstantOfShape", shape, value=self._no_record(name))
            records = op("Gather", op("Concat", f"segment_{name}", none, axis=1), place, axis=1)
            op("Concat", f"found_{name}", records, axis=0, output=f"found_{name}_next")

    def _let_go(self) -> None:
        op = self._inside.op
        best = op("Gather", "beam_alive_scores_reached", "zero_scalar", axis=1)
        kept = op("Reshape", op("NonZero", op("Greater", best, "never")), [-1])
        beams = op("Add", op("Mul", op("Unsqueeze", kept, [1]), "beam_size"), "beam_index")
        index = {"batch": kept, "rows": op("Reshape", beams, [-1])}
        op("Gather", "rows", kept, output="rows_next")
        for name, axes in self._carried.items():
            if name in self._past:
                continue
            if axes and axes[0] in index:
                op("Gather", f"{name}_reached", index[str(axes[0])], axis=0, output=f"{name}_kept")
            else:
                op("Identity", f"{name}_reached", output=f"{name}_kept")
        if self._past:
            self._lengthen_past(kept)
        op("Greater", op("Size", kept), 0, output="some_open")

    def _lengthen_past(self, kept: str) -> None:
        """Puts the caches of the segment behind those before; `kept` names the places of the rows that stay."""
        op = self._inside.op
        ends = [f"{past}_kept" for past in self._past.values()]
        self._inside.ops(
            "If", op("Equal", op("Shape", kept), "segment_rows"), outputs=ends,
            then_branch=self._longer_past("all", None), else_branch=self._longer_past("some", kept),
        )  # fmt: skip

    def _longer_past(self, which: str, kept: str | None) -> GraphProto:
        nodes, ends = Nodes(f"segment/{which}"), []
        for name, past in self._past.items():
            parts = [f"{past}_now", f"{name}_reached"]
            if kept is not None:
                parts = [nodes.op("Gather", part, kept, axis=0) for part in parts]
            end = nodes.op("Concat", *parts, axis=self._carried[name].index("history"))
            ends.append(helper.make_tensor_value_info(end, self._types[name], None))
        return helper.make_graph(nodes.nodes, f"past of {which}", [], ends)

    def _signature(self) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
        info = helper.make_tensor_value_info
        inputs = [info("segment_number", TensorProto.INT64, []), info("any_open", TensorProto.BOOL, [])]
        inputs.append(info("rows", TensorProto.INT64, ["open"]))
        outputs = [info("some_open", TensorProto.BOOL, []), info("rows_next", TensorProto.INT64, [None])]
        for name, axes in self._handed_on.items():
            inputs.append(info(f"{name}_now", self._types[name], [SIZES.get(axis, axis) for axis in axes]))
            left = [None if axis == "batch" else SIZES.get(axis, axis) for axis in axes]
            outputs.append(info(f"{name}_kept", self._types[name], left))
        for name in (*FOUND, *RECORDS):
            kind, axes = (self._types[name], self._carried[name]) if name in FOUND else self._record(name)
            shape = [None if axis in ("history", "steps") else axis for axis in axes]
            inputs.append(info(f"found_{name}", kind, shape))
            outputs.append(info(f"found_{name}_next", kind, shape))
        return inputs, outputs

    def _record(self, name: str) -> tuple[int, Axes]:
        return self._record_types[name], ("steps", "batch", "beam")

    def _no_record(self, name: str) -> TensorProto:
        """What the record of a row that has left would be: of sequences that are not there."""
        kind = self._record_types[name]
        return helper.make_tensor("value", kind, [1], [-np.inf if kind == TensorProto.FLOAT else 0])
