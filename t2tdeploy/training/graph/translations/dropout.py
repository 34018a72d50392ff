"""Dropout as ONNX's own operator, and its gradient. `masks.py` makes inputs of the masks later."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import ir
from onnxscript import opset18 as op

from t2tdeploy.training.graph.translations.shapes import constant


def native_dropout(x: Any, rate: float, train: bool | None = True) -> tuple[Any, Any]:
    """aten.native_dropout: x * mask / (1 - rate), and the mask."""
    true = constant(True, ir.DataType.BOOL)
    if not train:
        return op.Identity(x), op.Expand(true, op.Shape(x))
    result: tuple[Any, Any] = op.Dropout(x, constant(rate, ir.DataType.FLOAT), true)
    return result


def native_dropout_backward(gradient: Any, mask: Any, scale: float) -> Any:
    """aten.native_dropout_backward: dy * mask * scale"""
    kept: Any = op.Cast(mask, to=ir.DataType.UINT8)
    return op.Mul(gradient, op.DequantizeLinear(kept, constant(scale, ir.DataType.FLOAT)))


TABLE: dict[Any, Any] = {
    torch.ops.aten.native_dropout.default: native_dropout,
    torch.ops.aten.native_dropout_backward.default: native_dropout_backward,
}
