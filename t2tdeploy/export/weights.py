"""Keeps one copy of every weight in the file: equal ones are shared, a transposed one becomes a Transpose node, and a
product of two is stored multiplied out.

The exporter writes the tied embedding once per piece and once more transposed for the output layer. onnxruntime folds
the Transpose when it loads the graph.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from t2tdeploy.export.naming import names_read, rename_tensors, scopes

_SMALL = 1024  # elements; smaller constants are not worth a name of another place


def share_weights(graph: GraphProto) -> None:
    """Rewrites `graph` in place; Loop bodies see the shared weights through their outer scope."""
    first: dict[str, str] = {}
    replaced: dict[str, str] = {}
    transposes: list[NodeProto] = []
    kept = []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.size < _SMALL:
            kept.append(tensor)
            continue
        if (equal := first.get(_digest(array))) is not None:
            replaced[tensor.name] = equal
            continue
        flipped = first.get(_digest(array.T)) if array.ndim == 2 else None
        if flipped is not None:
            transposes.append(helper.make_node("Transpose", [flipped], [tensor.name], name=tensor.name, perm=[1, 0]))
            continue
        first[_digest(array)] = tensor.name
        kept.append(tensor)
    nodes = [*transposes, *graph.node]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.node[:]
    graph.node.extend(nodes)
    rename_tensors(graph, replaced)


def multiply_weights(graph: GraphProto) -> None:
    """Rewrites `graph` in place: the product of two weights of one shape, read by nothing else, becomes one weight."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    reads = Counter(name for scope in scopes(graph) for node in scope.node for name in node.input)
    for node in [node for node in graph.node if node.op_type == "Mul"]:
        pair = [weights[name] for name in node.input if name in weights and reads[name] == 1]
        if len(pair) < 2 or pair[0].dims != pair[1].dims:
            continue
        first, second = map(numpy_helper.to_array, pair)
        for tensor in pair:
            graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(first * second, node.output[0]))
        graph.node.remove(node)


def remove_unused(graph: GraphProto) -> None:
    """Removes weights that nothing reads any more, and the Transposes that were made for products."""
    used = names_read(graph)
    for scope in scopes(graph):
        for node in [node for node in scope.node if node.op_type == "Transpose" and node.output[0] not in used]:
            scope.node.remove(node)
    used = names_read(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _digest(array: np.ndarray) -> str:
    content = np.ascontiguousarray(array)
    return hashlib.sha256(content.tobytes() + str((content.dtype, content.shape)).encode()).hexdigest()
