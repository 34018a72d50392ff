"""The body of the search's Loop: one step.

The model looks at what was decoded, the controls leave some ids, the beams are updated. What forbids, penalizes or
draws ids is in the branches of Ifs, so that a step which needs none of it does not pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import GraphProto, NodeProto, TensorProto, helper

from t2tdeploy.export.forward import CHOSEN, RECORDS, SearchPieces
from t2tdeploy.export.naming import prefixed

_CHOICE = dict(zip((*CHOSEN, "penalties"), (TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT), strict=True))

_BAN = [TensorProto.BOOL]

SIZES: dict[str | int, str | None] = {
    "batch": "open",
    **dict.fromkeys(("rows", "target_length", "history", "past")),
}
"""Of the axes of what is carried: the rows are those still open."""


class LoopBody:
    """See the head of this file.

    Attributes:
        parts: the graphs that it consists of; their initializers belong to the graph around the Loop.
        types: name of each carried tensor -> its element type.
        record_types: the same of `RECORDS`.
    """

    def __init__(self, pieces: SearchPieces) -> None:
        self._carried = pieces.carried
        self._look = prefixed(pieces.look, "look")
        self._best = prefixed(pieces.best, "best", _named("plain"))
        self._banned = prefixed(pieces.banned, "banned", {"banned": "ngrams_banned"})
        self._controlled = prefixed(pieces.controlled, "controlled", {"penalties": "controlled_penalties"})
        self._best_allowed = prefixed(pieces.best, "best_allowed", {"log_probs": "allowed", **_named("best")})
        self._sampled = prefixed(pieces.sampled, "sampled", {"log_probs": "allowed", **_named("sampled")})
        self._update = prefixed(pieces.update, "update")
        self.parts = (
            self._look,
            self._best,
            self._banned,
            self._controlled,
            self._best_allowed,
            self._sampled,
            self._update,
        )
        self.types = {value.name: value.type.tensor_type.elem_type for part in self.parts for value in part.input}
        results = {value.name: value.type.tensor_type.elem_type for value in self._update.output}
        self.record_types = {name: results[name] for name in RECORDS}

    def graph(self) -> GraphProto:
        """(iteration, condition, carried) -> (go_on, carried_next, records)

        It goes on while more rows are open than `enough_open`, a scalar of the graph around it.
        """
        info = helper.make_tensor_value_info
        inputs = [info("iteration", TensorProto.INT64, []), info("condition", TensorProto.BOOL, [])]
        outputs = [info("go_on", TensorProto.BOOL, [])]
        for name, axes in self._carried.items():
            growing = [SIZES.get(axis, axis) for axis in axes]
            inputs.append(info(name, self.types[name], growing))
            outputs.append(info(f"{name}_next", self.types[name], growing))
        outputs += [info(name, kind, ["open", "beam"]) for name, kind in self.record_types.items()]
        go_on = helper.make_node("Greater", ["open_rows", "enough_open"], ["go_on"])
        nodes = [*self._look.node, self._choose(), *self._update.node, go_on]
        return helper.make_graph(nodes, "step", inputs, outputs)

    def _choose(self) -> NodeProto:
        """models/search.py: choose"""
        draw = _if(
            "sampling",
            [f"controlled_{name}" for name in CHOSEN],
            (self._sampled.node, [*_named("sampled").values()]),
            (self._best_allowed.node, [*_named("best").values()]),
            [*_CHOICE.values()][: len(CHOSEN)],
        )
        nothing = [
            helper.make_node("Shape", ["log_probs"], ["banned_shape"]),
            helper.make_node("Expand", ["unbanned", "banned_shape"], ["nothing_banned"]),
        ]
        ban = _if("repeating", ["banned"], (self._banned.node, ["ngrams_banned"]), (nothing, ["nothing_banned"]), _BAN)
        no_penalties = [
            helper.make_node("Shape", ["beam_alive_scores"], ["penalties_shape"]),
            helper.make_node("ConstantOfShape", ["penalties_shape"], ["no_penalties"]),
        ]
        return _if(
            "constrained",
            [*_CHOICE],
            ([ban, *self._controlled.node, draw], [f"controlled_{name}" for name in _CHOICE]),
            ([*self._best.node, *no_penalties], [*_named("plain").values(), "no_penalties"]),
            [*_CHOICE.values()],
        )


def _named(branch: str) -> dict[str, str]:
    """Names in a branch must not be those outside."""
    return {name: f"{branch}_{name}" for name in CHOSEN}


def _if(
    condition: str,
    outputs: Sequence[str],
    then: tuple[Sequence[NodeProto], Sequence[str]],
    otherwise: tuple[Sequence[NodeProto], Sequence[str]],
    kinds: Sequence[int],
) -> NodeProto:
    """An If of two branches, each its nodes and the names of its results, which are of these `kinds`."""
    branches: dict[str, Any] = {
        f"{name}_branch": helper.make_graph(
            list(nodes),
            f"{condition}_{name}",
            [],
            [helper.make_tensor_value_info(result, kind, None) for result, kind in zip(results, kinds, strict=True)],
        )
        for name, (nodes, results) in (("then", then), ("else", otherwise))
    }
    return helper.make_node("If", [condition], outputs, name=f"if_{condition}", **branches)
