"""A graph without a search in 8 bits: convolutions and products run on integers, embeddings are stored as such.

Activations have one fixed range each, measured on real examples, so that an answer cannot depend on its batch; with
onnxruntime's dynamic quantization it would. Products of layers over all positions of a text, and embeddings, are
rewritten as those of a search are (quantize.py); convolutions and dense layers by onnxruntime's own static
quantization, with 7 bits for weights, since CPUs without VNNI add products of bytes in 16 bits. The last layer stays as
it is: it costs nothing, and its errors would be those of the answer. So do layers of few weights, as tables and the
first convolution of an image have them: there is nothing to gain.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx import ModelProto

from t2tdeploy.export.products import products
from t2tdeploy.export.quantize import quantized
from t2tdeploy.export.ranges import Feeds, measure_feeds

DENSE = ("Conv", "Gemm")
LAYERS = (*DENSE, "MatMul")
FEW_WEIGHTS = 256  # a layer with fewer stays in float32


def quantize_single_pass(model: ModelProto, feeds: Sequence[Feeds]) -> ModelProto:
    """A copy of the graph of `export_single_pass` in 8 bits.

    Args:
        feeds: batches of its inputs, a hundred examples or more like those that it will be asked about.
    """
    named = _named(model)
    kept = {*_last_layers(named), *_small_layers(named)}
    inputs = {product.node.input[0] for product in products(named.graph) if product.node.name not in kept}
    ranges = measure_feeds(named, inputs, feeds) if inputs else {}
    found = quantized(named, ranges, float_encoder=False, kept=kept)
    if any(node.op_type in DENSE and node.name not in kept for node in found.graph.node):
        found = _by_onnxruntime(found, feeds, sorted(kept))
    onnx.checker.check_model(found)
    return found


def _named(model: ModelProto) -> ModelProto:
    """A copy whose nodes have names, by which layers are left out here and by onnxruntime."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for place, node in enumerate(copy.graph.node):
        node.name = node.name or f"node_{place}"
    return copy


def _last_layers(model: ModelProto) -> list[str]:
    """Names of the layers behind which there is no other."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: list[str] = []
    waiting, seen = [value.name for value in model.graph.output], set[str]()
    while waiting:
        node = makers.get(name := waiting.pop())
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in LAYERS:
            found.append(node.name)
        else:
            waiting += node.input
    return found


def _small_layers(model: ModelProto) -> list[str]:
    """Names of the layers of fewer weights than `FEW_WEIGHTS`."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    layers = (node for node in model.graph.node if node.op_type in LAYERS)
    return [node.name for node in layers if sizes.get(node.input[1], FEW_WEIGHTS) < FEW_WEIGHTS]


def _by_onnxruntime(model: ModelProto, feeds: Sequence[Feeds], excluded: Sequence[str]) -> ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[Any] = iter(feeds)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a preparation that the exporter has done
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            quantize_static(
                model,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(DENSE),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(excluded),
            )
            return onnx.load(path)
    finally:
        logger.setLevel(level)
