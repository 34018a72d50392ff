"""The matrix products of a search graph that 8 bits can make faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from onnx import GraphProto, NodeProto


class Product(NamedTuple):
    """A matrix product of an activation with a weight.

    Args:
        graph: that the node is in: the whole one, or the body of a Loop.
        weight: name of the initializer.
        transposed: the initializer is [outputs, inputs].
    """

    graph: GraphProto
    node: NodeProto
    weight: str
    transposed: bool


def products(graph: GraphProto) -> list[Product]:
    """The products with weights, in the bodies of Loops too."""
    matrices = {tensor.name: (tensor.name, False) for tensor in graph.initializer if len(tensor.dims) == 2}
    return [*_products(graph, matrices)]


def widths(graph: GraphProto) -> dict[str, int]:
    """The inputs of the products, and the size of their last axis."""
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    return {product.node.input[0]: sizes[product.weight][product.transposed] for product in products(graph)}


def _products(graph: GraphProto, known: Mapping[str, tuple[str, bool]]) -> Iterator[Product]:
    matrices = dict(known)  # name -> initializer, and whether it is transposed
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in matrices:
            weight, transposed = matrices[node.input[0]]
            matrices[node.output[0]] = (weight, not transposed)
        if node.op_type == "MatMul" and node.input[1] in matrices:
            yield Product(graph, node, *matrices[node.input[1]])
        for attribute in node.attribute:
            if attribute.HasField("g") and node.op_type == "Loop":  # whose ranges can be measured; not those of an If
                yield from _products(attribute.g, matrices)
