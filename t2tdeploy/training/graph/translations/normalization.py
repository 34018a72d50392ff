"""Gradients of layer normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from onnxscript import opset18 as op

from t2tdeploy.training.graph.translations.reductions import sum_of_rows
from t2tdeploy.training.graph.translations.shapes import constant


def layer_norm_backward(
    gradient: Any, x: Any, shape: Sequence[int], mean: Any, rstd: Any, weight: Any, bias: Any, wanted: Sequence[bool]
) -> tuple[Any, Any, Any]:
    """aten.native_layer_norm_backward: rstd (g - mean(g) - x̂ mean(g x̂)) with g = dy weight, x̂ = (x - mean) rstd.

    The means over a row are products with a column vector: one pass that only reads.
    """
    size = math.prod(shape)
    flat, column = constant([-1, size]), constant([-1, 1])
    dy, rows = op.Reshape(gradient, flat), op.Reshape(x, flat)
    inverse = op.Reshape(rstd, column)
    normalized = op.Mul(op.Sub(rows, op.Reshape(mean, column)), inverse)
    product = op.Mul(dy, normalized)
    if weight is None:
        g, averaging = dy, constant([[1.0 / size]] * size, x.dtype)
    else:
        g = op.Mul(dy, op.Reshape(weight, constant([1, size])))
        averaging = op.Mul(op.Reshape(weight, column), constant(1.0 / size, x.dtype))
    centred = op.Sub(op.Sub(g, op.MatMul(dy, averaging)), op.Mul(normalized, op.MatMul(product, averaging)))
    return (
        op.Reshape(op.Mul(centred, inverse), op.Shape(x)),
        op.Reshape(sum_of_rows(product), constant([*shape])),
        op.Reshape(sum_of_rows(dy), constant([*shape])),
    )


TABLE = {torch.ops.aten.native_layer_norm_backward.default: layer_norm_backward}
