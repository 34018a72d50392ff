"""Gradients of layer normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from onnxscript import ir
from onnxscript import opset18 as op

from t2tdeploy.training.graph.translations.reductions import sum_of_rows
from t2tdeploy.training.graph.translations.shapes import as_type_of, constant, float32


def layer_norm_backward(
    gradient: Any, x: Any, shape: Sequence[int], mean: Any, rstd: Any, weight: Any, bias: Any, wanted: Sequence[bool]
) -> tuple[Any, Any, Any]:
    """aten.native_layer_norm_backward: rstd (g - mean(g) - x̂ mean(g x̂)) with g = dy weight, x̂ = (x - mean) rstd.

    The means over a row are products with a column vector: one pass that only reads. Of half precision it is computed
    in float32, as torch does.
    """
    size = math.prod(shape)
    flat, column = constant([-1, size]), constant([-1, 1])
    dy, rows = op.Reshape(float32(gradient), flat), op.Reshape(float32(x), flat)
    inverse = op.Reshape(float32(rstd), column)
    normalized = op.Mul(op.Sub(rows, op.Reshape(float32(mean), column)), inverse)
    product = op.Mul(dy, normalized)
    if weight is None:
        g, averaging = dy, constant([[1.0 / size]] * size, ir.DataType.FLOAT)
    else:
        g = op.Mul(dy, op.Reshape(float32(weight), constant([1, size])))
        averaging = op.Mul(op.Reshape(float32(weight), column), constant(1.0 / size, ir.DataType.FLOAT))
    centred = op.Sub(op.Sub(g, op.MatMul(dy, averaging)), op.Mul(normalized, op.MatMul(product, averaging)))
    parameter = x if weight is None else weight
    return (
        as_type_of(op.Reshape(op.Mul(centred, inverse), op.Shape(x)), x),
        as_type_of(op.Reshape(sum_of_rows(product), constant([*shape])), parameter),
        as_type_of(op.Reshape(sum_of_rows(dy), constant([*shape])), parameter),
    )


TABLE = {torch.ops.aten.native_layer_norm_backward.default: layer_norm_backward}
