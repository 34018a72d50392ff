"""Dropout as ONNX's own operator, and its gradient. `masks.py` makes inputs of the masks later.

Half precision is scaled in float32: in bfloat16 the factor itself would be wrong by up to 0.4 %.
"""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import ir
from onnxscript import opset18 as op

from t2tdeploy.training.graph.translations.shapes import as_type_of, constant, float32


def native_dropout(x: Any, rate: float, train: bool | None = True) -> tuple[Any, Any]:
    """aten.native_dropout: x * mask / (1 - rate), and the mask."""
    true = constant(True, ir.DataType.BOOL)
    if not train:
        return op.Identity(x), op.Expand(true, op.Shape(x))
    result, mask = op.Dropout(float32(x), constant(rate, ir.DataType.FLOAT), true)
    return as_type_of(result, x), mask


def native_dropout_backward(gradient: Any, mask: Any, scale: float) -> Any:
    """aten.native_dropout_backward: dy * mask * scale"""
    kept: Any = op.Cast(mask, to=ir.DataType.UINT8)
    factor = op.DequantizeLinear(kept, constant(scale, ir.DataType.FLOAT))
    return as_type_of(op.Mul(float32(gradient), factor), gradient)


TABLE: dict[Any, Any] = {
    torch.ops.aten.native_dropout.default: native_dropout,
    torch.ops.aten.native_dropout_backward.default: native_dropout_backward,
}
