"""The values that tensors of a search graph take on real sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

from t2tdeploy.runtime import GraphSession
from t2tdeploy.sentences import pad_rows

BATCH = 16
_EXTREMES = {"low": ("ReduceMin", min), "high": ("ReduceMax", max)}


class Range(NamedTuple):
    """Smallest and largest value."""

    low: float
    high: float


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
        names: float tensors that nodes of the graph make, or of the body of its Loop.
        sources: ids with EOS.
    """
    watched = ModelProto()
    watched.CopyFrom(model)
    found = [*_watch(watched.graph, set(names))]
    session = GraphSession(watched.SerializeToString())
    outputs = {_output(name, extreme): merge for name in found for extreme, (_, merge) in _EXTREMES.items()}
    seen: dict[str, list[float]] = {output: [] for output in outputs}
    rows = sorted(sources, key=len)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        limits = np.array([len(ids) + extra_length for ids in batch])
        values = session.run([*outputs], pad_rows(batch), limits, beam_size=beam_size, alpha=alpha, num_hypotheses=1)
        for output, value in zip(outputs, values, strict=True):
            seen[output].append(float(value))
    extremes = {output: merge(seen[output]) for output, merge in outputs.items()}
    return {name: Range(*(extremes[_output(name, extreme)] for extreme in _EXTREMES)) for name in found}


def _watch(graph: GraphProto, names: set[str], depth: int = 0) -> Iterator[str]:
    """Adds the extremes of those tensors that `graph` makes, and of those of its Loops, to its outputs."""
    for node in list(graph.node):
        for name in names.intersection(node.output):
            _add_extremes(graph, name, [name, name], depth)
            yield name
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH and node.op_type == "Loop":
                for name in _watch(attribute.g, names, depth + 1):
                    stacked = [f"{_output(name, extreme, depth + 1)}/stacked" for extreme in _EXTREMES]
                    node.output.extend(stacked)  # what a body adds to its outputs, the Loop stacks
                    _add_extremes(graph, name, stacked, depth)
                    yield name


def _output(name: str, extreme: str, depth: int = 0) -> str:
    return f"{name}/{extreme}/{depth}"


def _add_extremes(graph: GraphProto, name: str, of: Sequence[str], depth: int) -> None:
    for source, (extreme, (operator, _)) in zip(of, _EXTREMES.items(), strict=True):
        output = _output(name, extreme, depth)
        graph.node.append(helper.make_node(operator, [source], [output], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
