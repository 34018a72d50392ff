"""A search in 8 bits: products of activations and weights run on integers, everything else stays as it was.

Weights have a scale for each output and 7 bits: CPUs without VNNI add pairs of products in 16 bits, which 8 bits would
overflow. Activations have one fixed range for each tensor, measured on real sentences, as Marian's 8-bit models may
have (Bogoychev et al. 2020). Unlike onnxruntime's dynamic quantization, which takes the range of each batch, a
translation then cannot depend on its batch, and no time is spent on finding ranges while decoding.

The graph stays standard ONNX: QuantizeLinear and DequantizeLinear around MatMul, which onnxruntime runs as one product
of integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from t2tdeploy.export.ranges import Range

LARGEST_WEIGHT = 63  # 7 bits
LEVELS = 255  # of an activation

Matrix = npt.NDArray[np.float32]


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


def quantized(model: ModelProto, ranges: Mapping[str, Range]) -> ModelProto:
    """A copy of a search graph (see export/beam_search.py) in 8 bits.

    Args:
        ranges: of the first input of each of `products`.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    found = products(copy.graph)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    _Rewriter(copy.graph, weights, ranges).rewrite(found)
    _remove_unused(copy.graph)
    return copy


class _Rewriter:
    """Puts quantized weights and activations where their floats were."""

    def __init__(self, graph: GraphProto, weights: Mapping[str, Matrix], ranges: Mapping[str, Range]) -> None:
        self._graph = graph
        self._weights = weights
        self._ranges = ranges
        self._written: set[str] = set()  # initializers
        self._read: set[str] = set()  # activations that have been quantized

    def rewrite(self, found: Sequence[Product]) -> None:
        for product in found:
            nodes = [*self._activation(product.node), self._weight(product)]
            result = product.node.output[0]
            place = next(place for place, node in enumerate(product.graph.node) if result in node.output)
            for node in reversed(nodes):
                product.graph.node.insert(place, node)

    def _activation(self, product: NodeProto) -> list[NodeProto]:
        """Quantizes the product's input, unless another product of it has done so."""
        name = product.input[0]
        scale, zero, integers, result = (f"{name}/{part}" for part in ("scale", "zero", "quantized", "dequantized"))
        product.input[0] = result
        if name in self._read:
            return []
        self._read.add(name)
        step, offset = _affine(self._ranges[name])
        self._write(scale, step)
        self._write(zero, offset)
        return [
            helper.make_node("QuantizeLinear", [name, scale, zero], [integers]),
            helper.make_node("DequantizeLinear", [integers, scale, zero], [result]),
        ]

    def _weight(self, product: Product) -> NodeProto:
        """Each product has a DequantizeLinear of its own: onnxruntime takes them together."""
        name = f"{product.weight}/{'transposed/' if product.transposed else ''}"
        parts = [f"{name}{part}" for part in ("quantized", "scale", "zero")]
        if parts[0] not in self._written:
            matrix = self._weights[product.weight]
            integers, scale = quantize_weight(matrix.T if product.transposed else matrix)
            self._write(parts[0], integers)
            self._write(parts[1], scale)
            self._write(parts[2], np.zeros(len(scale), np.int8))
        product.node.input[1] = f"{product.node.output[0]}/weight"
        return helper.make_node("DequantizeLinear", parts, [product.node.input[1]], axis=1)

    def _write(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self._written.add(name)
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))


def quantize_weight(matrix: Matrix) -> tuple[npt.NDArray[np.int8], Matrix]:
    """matrix [inputs, outputs] -> integers of the same shape, and scale [outputs]; matrix is about integers * scale."""
    scale = np.abs(matrix).max(axis=0) / LARGEST_WEIGHT
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.round(matrix / scale).astype(np.int8), scale


def _affine(values: Range) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Scale and zero point; zero is always one of the numbers that can be told."""
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint8)


def _remove_unused(graph: GraphProto) -> None:
    """Removes float weights that nothing reads any more, and the Transposes that were made for products."""
    used = _used(graph)
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.output[0] not in used]:
        graph.node.remove(node)
    used = _used(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _used(graph: GraphProto) -> set[str]:
    """Names that nodes read, in subgraphs too, and outputs."""
    names = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return names.union(*map(_used, bodies))
