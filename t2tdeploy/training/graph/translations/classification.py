"""The negative log-likelihood of labels and its gradient, of which torch.onnx gets the weight of mean losses wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import ir

from t2tdeploy.training.graph.translations.shapes import constant, op, rank

_NONE, _MEAN = 0, 1  # torch's numbers of reductions; the third is the sum


def nll_loss_forward(log_p: Any, labels: Any, weight: Any, reduction: int, ignore_index: int) -> tuple[Any, Any]:
    """aten.nll_loss_forward and nll_loss2d_forward: log_p [batch, classes, ...] or [classes], labels without classes.

    Returns:
        the loss, and the summed weight of the labels that are not ignored, [].
    """
    axis = constant([min(1, rank(log_p) - 1)])
    ignored, label, share = _labels_and_weights(labels, weight, ignore_index, log_p.dtype)
    picked = op.GatherElements(log_p, op.Unsqueeze(label, axis), axis=min(1, rank(log_p) - 1))
    losses = _unless(ignored, op.Neg(op.Mul(op.Squeeze(picked, axis), share)), log_p.dtype)
    total = op.ReduceSum(share, keepdims=0)
    if reduction == _NONE:
        return losses, total
    summed = op.ReduceSum(losses, keepdims=0)
    return op.Div(summed, total) if reduction == _MEAN else summed, total


def nll_loss_backward(
    gradient: Any, log_p: Any, labels: Any, weight: Any, reduction: int, ignore_index: int, total_weight: Any
) -> Any:
    """aten.nll_loss_backward and nll_loss2d_backward: the gradient to log_p."""
    axis = min(1, rank(log_p) - 1)
    ignored, label, share = _labels_and_weights(labels, weight, ignore_index, log_p.dtype)
    scale = op.Div(gradient, total_weight) if reduction == _MEAN else gradient
    values = _unless(ignored, op.Neg(op.Mul(share, scale)), log_p.dtype)
    zeros = op.Expand(constant(0.0, log_p.dtype), op.Shape(log_p))
    place = constant([axis])
    return op.ScatterElements(zeros, op.Unsqueeze(label, place), op.Unsqueeze(values, place), axis=axis)


def _unless(ignored: Any, values: Any, dtype: ir.DataType) -> Any:
    """0 for labels to ignore, whose weight of 0 does not make a 0 of a log-probability of -inf, or of 0 / 0."""
    return op.Where(ignored, constant(0.0, dtype), values)


def _labels_and_weights(labels: Any, weight: Any, ignore_index: int, dtype: ir.DataType) -> tuple[Any, Any, Any]:
    """Which labels to ignore, labels with 0 in their place, and the weight of each, 0 for those."""
    ignored = op.Equal(labels, constant(ignore_index))
    label = op.Where(ignored, constant(0), labels)
    share = constant(1.0, dtype) if weight is None else op.Gather(weight, label)
    return ignored, label, op.Where(ignored, constant(0.0, dtype), share)


_aten = torch.ops.aten
TABLE: dict[Any, Callable[..., Any]] = {
    _aten.nll_loss_forward.default: nll_loss_forward,
    _aten.nll_loss_backward.default: nll_loss_backward,
    _aten.nll_loss2d_forward.default: nll_loss_forward,
    _aten.nll_loss2d_backward.default: nll_loss_backward,
}
