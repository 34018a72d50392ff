"""Names of tensors: who reads them, and others when graphs are joined."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from onnx import GraphProto, ModelProto


def prefixed(piece: ModelProto, prefix: str, crossing: Mapping[str, str] | None = None) -> GraphProto:
    """A copy of the graph of `piece` whose inner names start with `prefix/`; those of inputs and outputs stay.

    Args:
        crossing: new names of inputs and outputs.
    """
    graph = GraphProto()
    graph.CopyFrom(piece.graph)
    kept = {value.name: value.name for value in (*graph.input, *graph.output)} | dict(crossing or {})
    _rename(graph, lambda name: kept.get(name, f"{prefix}/{name}" if name else name))
    return graph


def scopes(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all graphs within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from scopes(attribute.g)


def names_read(graph: GraphProto) -> set[str]:
    """Names that nodes read, in subgraphs too, and outputs."""
    return {
        name
        for scope in scopes(graph)
        for name in (*(value.name for value in scope.output), *(name for node in scope.node for name in node.input))
    }


def rename_tensors(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Gives tensors of `graph` other names, where subgraphs read them too. Graph inputs and outputs stay."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename_tensors(attribute.g, names)
                for value in (*attribute.g.input, *attribute.g.output):
                    value.name = names.get(value.name, value.name)


def name_axes(graph: GraphProto, axes: Mapping[tuple[str, int], str]) -> None:
    """Replaces torch's symbols of axes by the callers' names, in formulas too.

    Args:
        axes: (input, axis) -> name.
    """
    values = {value.name: value for value in chain(graph.input, graph.output, graph.value_info)}
    names: dict[str, str] = {}
    for (source, axis), name in axes.items():
        symbol = values[source].type.tensor_type.shape.dim[axis].dim_param
        if symbol:
            names.setdefault(symbol, name)
    for value in values.values():
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


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
