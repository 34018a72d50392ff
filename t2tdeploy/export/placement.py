"""Where the weights of a search lie in its file: those that only its Loops read, in the body that they are read in.

onnxruntime packs weights for its matrix kernels when it loads a graph, but it looks for them only in the graph of a
node and in the one around that. The steps of a search lie two levels deep (export/segments.py), so weights of the whole
graph would be packed anew in every step. A weight that is another one transposed (export/weights.py) is a node, whose
result onnxruntime computes when it loads the graph and keeps where the node is: these lie with the weights. Passes over
a graph expect all weights in one place; so they lie there in memory, and are put where they are read when the graph is
written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import InputError
from t2tdeploy.export.naming import names_read


def read_search(path: Path) -> ModelProto:
    """The graph of a file that holds its weights, all of them at its top."""
    model = onnx.load(path)
    _lift_weights(model.graph)
    return model


def is_lifted(model: ModelProto) -> bool:
    """Whether all weights of a search lie at its top."""
    graph = model.graph
    return not any(body.initializer or _transposes(body, graph) for _, body in _loops(graph))


def lifted(model: ModelProto) -> ModelProto:
    """A copy of a search, all of its weights at its top, wherever they lie."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _lift_weights(copy.graph)
    return copy


def _lift_weights(graph: GraphProto) -> None:
    for _, body in _loops(graph):
        graph.initializer.extend(body.initializer)
        del body.initializer[:]
        turned = _transposes(body, graph)
        _take_nodes(body, turned)
        _put_first(graph, turned)


def default_search(bundle: Bundle) -> ModelProto:
    """The graph of a bundle's default variant, as `read_search`, whose inputs are all that a request may ask.

    Raises:
        InputError: its options are fixed.
    """
    name = bundle.manifest.default_variant
    if bundle.variant().layout == "static":
        growing = [other for other, one in bundle.manifest.variants.items() if one.layout != "static"]
        raise InputError(
            f"the default variant of {bundle.directory}, '{name}', has its decoding options fixed; nothing can be made "
            "around it",
            path=bundle.directory,
            help=f"choose another default with t2tdeploy optimize --default: {', '.join(growing)}",
        )
    return read_search(bundle.path())


def serialized(model: ModelProto) -> bytes:
    """The bytes of the file of a search, or of a graph with one inside; `model` stays as it is."""
    copy = ModelProto()
    copy.CopyFrom(model)
    sink_weights(copy)
    content: bytes = copy.SerializeToString()
    return content


def sink_weights(model: ModelProto) -> None:
    """Moves the initializers and their transposes that only the Loop over segments reads into its body."""
    graph = model.graph
    for loop, body in _loops(graph):
        inside = _read_only_by(loop, body, graph)
        turned = [node for node in _transposes(graph, graph) if node.output[0] in inside]
        _take_nodes(graph, turned)
        _put_first(body, turned)
        inside = _read_only_by(loop, body, graph)
        body.initializer.extend(tensor for tensor in graph.initializer if tensor.name in inside)
        kept = [tensor for tensor in graph.initializer if tensor.name not in inside]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _read_only_by(loop: NodeProto, body: GraphProto, graph: GraphProto) -> set[str]:
    """Names that the Loop's body reads, and nothing else of the graph."""
    outside = GraphProto(node=[node for node in graph.node if node is not loop], output=graph.output)
    return names_read(body) - names_read(outside) - set(loop.input) - {value.name for value in graph.input}


def _transposes(scope: GraphProto, top: GraphProto) -> list[NodeProto]:
    """The nodes of a scope that transpose an initializer of `top`."""
    weights = {tensor.name for tensor in top.initializer}
    return [node for node in scope.node if node.op_type == "Transpose" and node.input[0] in weights]


def _take_nodes(scope: GraphProto, nodes: Sequence[NodeProto]) -> None:
    for node in nodes:
        scope.node.remove(node)


def _put_first(scope: GraphProto, nodes: Sequence[NodeProto]) -> None:
    for node in reversed(nodes):
        scope.node.insert(0, node)


def _loops(graph: GraphProto) -> Iterator[tuple[NodeProto, GraphProto]]:
    for node in list(graph.node):
        if node.op_type == "Loop" and node.name.rpartition("/")[2] == "segments":
            yield node, next(attribute.g for attribute in node.attribute if attribute.name == "body")
