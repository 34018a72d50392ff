"""Where the weights of a search lie in its file: those that only its Loops read, in the body that they are read in.

onnxruntime packs weights for its matrix kernels when it loads a graph, but it looks for them only in the graph of a
node and in the one around that. The steps of a search lie two levels deep (export/segments.py), so weights of the whole
graph would be packed anew in every step. Passes over a graph expect all weights in one place; so they lie there in
memory, and are put where they are read when the graph is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import InputError
from t2tdeploy.export.naming import names_read


def read_search(path: Path) -> ModelProto:
    """The graph of a file that holds its weights, all of them at its top."""
    model = onnx.load(path)
    for _, body in _loops(model.graph):
        model.graph.initializer.extend(body.initializer)
        del body.initializer[:]
    return model


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
    """Moves the initializers that only the Loop over segments reads into its body."""
    graph = model.graph
    for loop, body in _loops(graph):
        outside = GraphProto(node=[node for node in graph.node if node is not loop], output=graph.output)
        read = names_read(outside) | set(loop.input) | {value.name for value in graph.input}
        inside = names_read(body) - read
        body.initializer.extend(tensor for tensor in graph.initializer if tensor.name in inside)
        kept = [tensor for tensor in graph.initializer if tensor.name not in inside]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _loops(graph: GraphProto) -> Iterator[tuple[NodeProto, GraphProto]]:
    for node in list(graph.node):
        if node.op_type == "Loop" and node.name.rpartition("/")[2] == "segments":
            yield node, next(attribute.g for attribute in node.attribute if attribute.name == "body")
