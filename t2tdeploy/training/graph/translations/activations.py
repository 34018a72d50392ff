"""Gradients of activations that torch.onnx neither translates nor decomposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from t2tdeploy.training.graph.translations.shapes import constant, op


def silu_backward(gradient: Any, x: Any) -> Any:
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x)"""
    one, s = constant(1.0, x.dtype), op.Sigmoid(x)
    return op.Mul(gradient, op.Mul(s, op.Add(one, op.Mul(x, op.Sub(one, s)))))


def mish_backward(gradient: Any, x: Any) -> Any:
    """dx = dy (t + x sigmoid(x) (1 - t²)) with t = tanh(softplus(x))"""
    t = op.Tanh(op.Softplus(x))
    slope = op.Sub(constant(1.0, x.dtype), op.Mul(t, t))
    return op.Mul(gradient, op.Add(t, op.Mul(op.Mul(x, op.Sigmoid(x)), slope)))


TABLE: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.silu_backward.default: silu_backward,
    torch.ops.aten.mish_backward.default: mish_backward,
}
