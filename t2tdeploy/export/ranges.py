"""The values that tensors of a search graph take on real sentences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.export.products import widths
from t2tdeploy.runtime import GraphSession, Session
from t2tdeploy.sentences import pad_rows

BATCH = 16
Array = npt.NDArray[np.float32]
Feeds = Mapping[str, npt.NDArray[Any]]
"""Inputs of a graph by name, a batch of them."""


class Channels(NamedTuple):
    """What the channels, the positions of the last axis, of a tensor did.

    Args:
        low, high: [channels], the smallest and the largest value of each.
        moment: [channels, channels], the sum of products of every two of them over all rows.
    """

    low: Array
    high: Array
    moment: Array


class Range(NamedTuple):
    """Smallest and largest value; of inputs of products those of each channel too."""

    low: float
    high: float
    channels: Channels | None = None


@dataclass(frozen=True)
class _Statistic:
    """How two values of it become one, in the graph and between batches, and the value of nothing."""

    operator: str
    merge: Any
    nothing: float


_STATISTICS = {
    "low": _Statistic("Min", np.minimum, np.inf),
    "high": _Statistic("Max", np.maximum, -np.inf),
    "moment": _Statistic("Sum", np.add, 0.0),
}


def measure_ranges(
    model: ModelProto,
    names: Collection[str],
    sources: Sequence[Sequence[int]],
    *,
    beam_size: int,
    alpha: float,
    extra_length: int,
) -> dict[str, Range]:
    """Runs the search on `sources` and watches.

    Args:
        names: float tensors that the graph is given, or nodes make, of it or of the body of its Loop.
        sources: ids with EOS; those of a hundred sentences are enough.
    """
    rows = sorted(sources, key=len)

    def values(graph: bytes, outputs: Sequence[str]) -> Iterator[list[Any]]:
        session = GraphSession(graph)
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            limits = np.array([len(ids) + extra_length for ids in batch])
            yield session.run(outputs, pad_rows(batch), limits, beam_size=beam_size, alpha=alpha, num_hypotheses=1)

    return _measured(model, names, values)


def measure_feeds(model: ModelProto, names: Collection[str], feeds: Sequence[Feeds]) -> dict[str, Range]:
    """Runs a graph without a search on `feeds` and watches.

    Args:
        names: float tensors that the graph is given or its nodes make.
    """

    def values(graph: bytes, outputs: Sequence[str]) -> Iterator[list[Any]]:
        session = Session(graph)
        return (session.call(outputs, one) for one in feeds)

    return _measured(model, names, values)


def _measured(
    model: ModelProto, names: Collection[str], values_of: Callable[[bytes, Sequence[str]], Iterator[list[Any]]]
) -> dict[str, Range]:
    """
    Args:
        values_of: a graph and outputs of it -> their values, batch by batch.
    """
    watched = ModelProto()
    watched.CopyFrom(model)
    known = widths(model.graph)
    outputs = _watch_all(watched.graph, {name: known.get(name, 1) for name in names})
    seen: dict[str, Array] = {}
    for values in values_of(watched.SerializeToString(), [*outputs]):
        for (output, statistic), value in zip(outputs.items(), values, strict=True):
            seen[output] = statistic.merge(seen[output], value) if output in seen else value
    found: dict[str, Range] = {}
    for name in dict.fromkeys(output.rpartition("/")[0] for output in outputs):
        channels = Channels(*(seen[f"{name}/{kind}"] for kind in _STATISTICS))
        low, high = float(channels.low.min()), float(channels.high.max())
        found[name] = Range(low, high, channels if name in known else None)
    return found


def _watch_all(graph: GraphProto, sizes: Mapping[str, int]) -> dict[str, _Statistic]:
    """Makes outputs NAME/STATISTIC of `graph`; returns them."""
    outputs = {}
    for name, kind, value in list(_watch(graph, sizes)):
        output = f"{name}/{kind}"
        graph.node.append(helper.make_node("Identity", [value], [output]))
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
        outputs[output] = _STATISTICS[kind]
        shape = [sizes[name]] * (2 if kind == "moment" else 1)
        nothing = np.full(shape, _STATISTICS[kind].nothing, np.float32)
        graph.initializer.append(numpy_helper.from_array(nothing, f"{output}/nothing"))
    for name, size in sizes.items():
        graph.initializer.append(numpy_helper.from_array(np.array([-1, size]), f"{name}/rows_shape"))
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "over_rows"))
    return outputs


def _watch(graph: GraphProto, sizes: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
    """Adds the statistics of tensors of `graph` and its Loops: name, statistic, the tensor with its value."""
    here = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}
    for name in sorted(sizes.keys() & here):
        graph.node.extend(_statistics(name))
        yield from ((name, kind, f"{name}/{kind}/once") for kind in _STATISTICS)
    for node in list(graph.node):
        if node.op_type == "Loop":
            body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
            for name, kind, value in list(_watch(body, sizes)):
                yield name, kind, _accumulate(node, body, f"{name}/{kind}", kind, value)


def _statistics(name: str) -> list[NodeProto]:
    """Of the rows of one tensor: all its axes but the last one are rows."""
    rows, flipped = f"{name}/rows", f"{name}/rows_flipped"
    return [
        helper.make_node("Reshape", [name, f"{name}/rows_shape"], [rows]),
        helper.make_node("Transpose", [rows], [flipped], perm=[1, 0]),
        helper.make_node("ReduceMin", [rows, "over_rows"], [f"{name}/low/once"], keepdims=0),
        helper.make_node("ReduceMax", [rows, "over_rows"], [f"{name}/high/once"], keepdims=0),
        helper.make_node("MatMul", [flipped, rows], [f"{name}/moment/once"]),
    ]


def _accumulate(loop: NodeProto, body: GraphProto, output: str, kind: str, value: str) -> str:
    """Carries a statistic through the iterations of a Loop; returns the Loop's output that has it in the end."""
    carried = len(loop.input) - 2  # without the trip count and the condition
    before, after, result = f"{value}/before", f"{value}/after", f"{value}/all"
    body.node.append(helper.make_node(_STATISTICS[kind].operator, [before, value], [after]))
    body.input.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, None))
    body.output.insert(1 + carried, helper.make_tensor_value_info(after, TensorProto.FLOAT, None))
    loop.input.append(f"{output}/nothing")
    loop.output.insert(carried, result)
    return result
