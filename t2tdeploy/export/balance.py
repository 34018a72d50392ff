"""Gives the channels of a product's input the same range, so that none of its 255 levels serve one channel alone.

A layer norm ends with a factor and an offset for each channel. Both are divided by the channel's largest value, and the
weights that read the channel are multiplied by it: the products stay what they were, and nothing is computed more
(SmoothQuant, Xiao et al. 2023, with all of the difference moved into the weights, which have a scale for each output).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, numpy_helper

from t2tdeploy.export.naming import scopes
from t2tdeploy.export.products import Product
from t2tdeploy.export.ranges import Channels, Range

_SMALLEST = 1e-2  # of the largest channel; smaller ones may be larger on sentences not yet seen

Vector = npt.NDArray[np.float32]


def balance(
    graph: GraphProto, found: Sequence[Product], ranges: Mapping[str, Range]
) -> tuple[dict[str, Range], dict[str, Vector]]:
    """Balances, in place, the layer norms whose results only products read.

    Returns:
        The ranges of all inputs of products afterwards; and of those that were balanced what the rows of the products'
        weights have yet to be multiplied by, [channels].
    """
    values = {tensor.name: tensor for tensor in graph.initializer}
    reads = Counter(_reads(graph))
    by_products = Counter(product.node.input[0] for product in found)
    ranges, factors = dict(ranges), {}
    for scope in scopes(graph):
        for node in scope.node:
            name = node.output[0] if node.output else ""
            channels = ranges[name].channels if name in by_products else None
            if node.op_type != "LayerNormalization" or channels is None or reads[name] != by_products[name]:
                continue
            if all(parameter in values for parameter in node.input[1:]):
                factors[name] = _factor(channels)
                ranges[name] = _divided(channels, factors[name])
                _divide(graph, node, factors[name])
    return ranges, factors


def _reads(graph: GraphProto) -> Iterator[str]:
    for scope in scopes(graph):
        for node in scope.node:
            yield from node.input
        yield from (value.name for value in scope.output)


def _factor(channels: Channels) -> Vector:
    largest = np.maximum(np.abs(channels.low), np.abs(channels.high))
    factor: Vector = np.maximum(largest, _SMALLEST * largest.max())
    return factor if np.all(factor > 0) else np.ones_like(factor)


def _divided(channels: Channels, factor: Vector) -> Range:
    low, high = channels.low / factor, channels.high / factor
    moment = channels.moment / factor / factor[:, None]
    return Range(float(low.min()), float(high.max()), Channels(low, high, moment))


def _divide(graph: GraphProto, node: NodeProto, factor: Vector) -> None:
    values = {tensor.name: tensor for tensor in graph.initializer}
    for place, parameter in enumerate(node.input[1:], start=1):
        node.input[place] = f"{node.output[0]}/{('factor', 'offset')[place - 1]}"
        divided = numpy_helper.to_array(values[parameter]) / factor
        graph.initializer.append(numpy_helper.from_array(divided.astype(np.float32), node.input[place]))
