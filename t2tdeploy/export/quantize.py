"""A search in 8 bits: products of activations and weights run on integers, everything else stays as it was.

Activations have one fixed range for each tensor, measured on real sentences (ranges.py), as Marian's 8-bit models may
have (Bogoychev et al. 2020). Unlike onnxruntime's dynamic quantization, which takes the range of each batch, a
translation then cannot depend on its batch, and no time is spent on finding ranges while decoding. Layer norms give all
channels the same range (balance.py). Weights have a scale for each output (rounding.py), embeddings one for each word,
and an embedding that is the output layer too is stored once. The encoder multiplies floats, unless told otherwise.

The graph stays standard ONNX: QuantizeLinear and DequantizeLinear around MatMul, which onnxruntime runs as one product
of integers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.export.balance import Vector, balance
from t2tdeploy.export.naming import scopes
from t2tdeploy.export.placement import is_lifted, lifted
from t2tdeploy.export.products import Product, products
from t2tdeploy.export.ranges import Range, measure_ranges
from t2tdeploy.export.rounding import DAMPING, LARGEST_WEIGHT, Matrix, positive, quantize_weight
from t2tdeploy.export.weights import remove_unused

__all__ = ["products", "quantize_search", "quantize_weight", "quantized"]

NARROW = 4  # columns of a table of embeddings: with so few, a word's scale is as large as what it scales
LEVELS = 255  # of an activation
# A table of embeddings that is a product's weight too is rounded for both: more noise keeps it near to its own values.
TABLE_DAMPING = 0.5


def quantize_search(
    model: ModelProto,
    sources: Sequence[Sequence[int]],
    *,
    beam_size: int,
    alpha: float,
    extra_length: int,
    float_encoder: bool = True,
) -> ModelProto:
    """A copy of a search graph (see export/beam_search.py) in 8 bits, fit to `sources`.

    Args:
        sources: ids with EOS of a hundred sentences or more like those that will be translated.
        beam_size, alpha, extra_length: of the search on them.
        float_encoder: see `quantized`.
    """
    whole = model if is_lifted(model) else lifted(model)
    inputs = {product.node.input[0] for product in products(whole.graph)}
    ranges = measure_ranges(whole, inputs, sources, beam_size=beam_size, alpha=alpha, extra_length=extra_length)
    return _rewritten(lifted(model) if whole is model else whole, ranges, float_encoder=float_encoder)


def quantized(
    model: ModelProto, ranges: Mapping[str, Range], *, float_encoder: bool = True, kept: Collection[str] = ()
) -> ModelProto:
    """A copy of a search graph (see export/beam_search.py) in 8 bits.

    Args:
        ranges: of the first input of each of `products` but those kept. Where they have no channels, nothing is
            balanced and weights are rounded one by one.
        float_encoder: whether products outside Loops, which run once for each search, only store their weights in 8
            bits, and multiply floats. They are few of all, and their errors reach every step.
        kept: names of the nodes of products that stay as they are.
    """
    return _rewritten(lifted(model), ranges, float_encoder=float_encoder, kept=kept)


def _rewritten(
    model: ModelProto, ranges: Mapping[str, Range], *, float_encoder: bool, kept: Collection[str] = ()
) -> ModelProto:
    """As `quantized`, but `model` itself."""
    graph = model.graph
    found = [product for product in products(graph) if product.node.name not in kept]
    stored = [product for product in found if float_encoder and product.graph is graph]
    integer = [product for product in found if not float_encoder or product.graph is not graph]
    balanced, factors = balance(graph, integer, ranges)
    _Rewriter(graph, balanced, factors).rewrite(integer, stored)
    remove_unused(graph)
    return model


class _Table(NamedTuple):
    """An embedding in 8 bits: rows of integers, and names of what they are multiplied by."""

    integers: str  # [words, hidden]
    scale: str  # [words, 1]
    divisor: str | None  # [hidden]; the reciprocal of what balancing multiplied by


class _Rewriter:
    """Puts quantized weights, activations and embeddings where their floats were."""

    def __init__(self, graph: GraphProto, ranges: Mapping[str, Range], factors: Mapping[str, Vector]) -> None:
        self._graph = graph
        self._ranges = ranges
        self._factors = factors
        self._matrices: dict[str, Matrix] = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in graph.initializer
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
        }
        wide = {name for name, matrix in self._matrices.items() if matrix.shape[1] > NARROW}
        self._lookups = [
            (scope, node) for scope in scopes(graph) for node in scope.node
            if node.op_type == "Gather" and node.input[0] in wide and not _axis(node)
        ]  # fmt: skip
        self._tables: dict[str, _Table] = {}
        self._moments: dict[str, Matrix] = {}  # name of a quantized weight -> of all that it is multiplied with
        self._written: set[str] = set()  # initializers
        self._read: set[str] = set()  # activations that have been quantized

    def rewrite(self, integer: Sequence[Product], stored: Sequence[Product]) -> None:
        for product in (*integer, *stored):
            channels = self._ranges[product.node.input[0]].channels
            if channels is not None:
                name = self._name(product)
                self._moments[name] = self._moments.get(name, 0) + channels.moment
        for product in stored:
            _insert(product.graph, product.node, self._stored_weight(product))
        for product in integer:
            weight = self._weight(product)  # before its input gets another name
            _insert(product.graph, product.node, [*self._activation(product.node), weight])
        for scope, node in self._lookups:
            _insert(scope, node, self._lookup(node))
            scope.node.remove(node)

    def _name(self, product: Product) -> str:
        """Of the quantized weight. Products share it, unless their inputs are balanced differently."""
        name = product.weight + ("/transposed" if product.transposed else "")
        return f"{name}/of/{product.node.input[0]}" if product.node.input[0] in self._factors else name

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
        name = self._name(product)
        parts = [f"{name}/{part}" for part in ("quantized", "scale", "zero")]
        if parts[1] not in self._written:
            is_table = product.transposed and any(node.input[0] == product.weight for _, node in self._lookups)
            factor = self._factors.get(product.node.input[0])
            matrix = self._matrices[product.weight]
            matrix = matrix.T if product.transposed else matrix
            integers, scale = quantize_weight(
                matrix if factor is None else matrix * factor[:, None],
                self._moments.get(name),
                damping=TABLE_DAMPING if is_table else DAMPING,
            )
            self._write(parts[1], scale)
            self._write(parts[2], np.zeros(len(scale), np.int8))
            if is_table and product.weight not in self._tables:
                self._write_table(product.weight, integers.T, scale, factor)
                rows = self._tables[product.weight].integers
                self._graph.node.insert(0, helper.make_node("Transpose", [rows], [parts[0]], perm=[1, 0]))
            else:
                self._write(parts[0], integers)
        product.node.input[1] = f"{product.node.output[0]}/weight"
        return helper.make_node("DequantizeLinear", parts, [product.node.input[1]], axis=1)

    def _stored_weight(self, product: Product) -> list[NodeProto]:
        """Of a product of floats: 8 bits in the file, which onnxruntime multiplies out when it loads the graph."""
        name = f"{self._name(product)}/stored"
        parts = [f"{name}/{part}" for part in ("quantized", "numbers", "scale", "weight")]
        product.node.input[1] = parts[3]
        if parts[0] in self._written:
            return []
        matrix = self._matrices[product.weight]
        matrix = matrix.T if product.transposed else matrix
        integers, scale = quantize_weight(matrix, self._moments.get(self._name(product)), pairs=False)
        self._write(parts[0], integers)
        self._write(parts[2], scale)
        return [
            helper.make_node("Cast", [parts[0]], [parts[1]], to=TensorProto.FLOAT),
            helper.make_node("Mul", [parts[1], parts[2]], [parts[3]]),
        ]

    def _lookup(self, node: NodeProto) -> list[NodeProto]:
        """Rows of a table: looked up as integers, then multiplied."""
        weight, ids = node.input
        if weight not in self._tables:
            matrix = self._matrices[weight]
            scale = positive(np.abs(matrix).max(axis=1) / LARGEST_WEIGHT)
            self._write_table(weight, np.round(matrix / scale[:, None]).astype(np.int8), scale, None)
        table, result = self._tables[weight], node.output[0]
        rows, numbers, steps, scaled = (f"{result}/{part}" for part in ("rows", "numbers", "steps", "scaled"))
        nodes = [
            helper.make_node("Gather", [table.integers, ids], [rows]),
            helper.make_node("Cast", [rows], [numbers], to=TensorProto.FLOAT),
            helper.make_node("Gather", [table.scale, ids], [steps]),
            helper.make_node("Mul", [numbers, steps], [scaled if table.divisor else result]),
        ]
        if table.divisor:
            nodes.append(helper.make_node("Mul", [scaled, table.divisor], [result]))
        return nodes

    def _write_table(self, weight: str, integers: npt.NDArray[np.int8], scale: Matrix, factor: Vector | None) -> None:
        divisor = None if factor is None else f"{weight}/rows/divisor"
        table = self._tables[weight] = _Table(f"{weight}/rows", f"{weight}/rows/scale", divisor)
        self._write(table.integers, integers)
        self._write(table.scale, scale[:, None])
        if divisor and factor is not None:
            self._write(divisor, 1 / factor)

    def _write(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self._written.add(name)
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))


def _axis(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _insert(graph: GraphProto, before: NodeProto, nodes: Sequence[NodeProto]) -> None:
    place = next(place for place, node in enumerate(graph.node) if before.output[0] in node.output)
    for node in reversed(nodes):
        graph.node.insert(place, node)


def _affine(values: Range) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Scale and zero point; zero is always one of the numbers that can be told."""
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint8)
