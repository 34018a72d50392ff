"""Gradients of softmax and log-softmax."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18 as op

from t2tdeploy.training.graph.translations.shapes import constant


def softmax_backward(gradient: Any, y: Any, dim: int, dtype: Any) -> Any:
    """aten._softmax_backward_data: y * dy - y * sum(y * dy)"""
    product = op.Mul(gradient, y)
    return op.Sub(product, op.Mul(y, op.ReduceSum(product, constant([dim]), keepdims=1)))


def log_softmax_backward(gradient: Any, y: Any, dim: int, dtype: Any) -> Any:
    """aten._log_softmax_backward_data: dy - exp(y) * sum(dy)"""
    return op.Sub(gradient, op.Mul(op.Exp(y), op.ReduceSum(gradient, constant([dim]), keepdims=1)))


TABLE = {
    torch.ops.aten._softmax_backward_data.default: softmax_backward,
    torch.ops.aten._log_softmax_backward_data.default: log_softmax_backward,
}
