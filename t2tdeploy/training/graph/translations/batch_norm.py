"""Batch normalization (Ioffe and Szegedy, 2015) in training, and its gradient.

ONNX's BatchNormalization does not return the statistics of the batch, which the gradient needs, and its running
variance is the biased one, where torch's is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import ir

from t2tdeploy.training.graph.translations.shapes import constant, op, rank


def native_batch_norm(
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Any, ...]:
    """aten._native_batch_norm_legit_functional: x [batch, channels, ...].

    Returns:
        the normalized x, mean and 1 / deviation of the batch [channels], running mean and variance after it [channels].
    """
    dtype = x.dtype
    if not training:
        inverse = op.Reciprocal(op.Sqrt(op.Add(running_var, constant(eps, dtype))))
        normalized = _scaled(x, running_mean, inverse, weight, bias)
        return normalized, running_mean, inverse, op.Identity(running_mean), op.Identity(running_var)
    normalized, mean, inverse, variance = _normalized(x, weight, bias, eps)
    count = op.Cast(_count(x), to=dtype)
    # A single value, which torch refuses, has no unbiased variance; the running one must not become infinite for ever.
    one = constant(1.0, dtype)
    unbiased = op.Mul(variance, op.Div(count, op.Max(op.Sub(count, one), one)))
    return normalized, mean, inverse, _moved(running_mean, mean, momentum), _moved(running_var, unbiased, momentum)


def native_batch_norm_no_stats(
    x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple[Any, ...]:
    """aten._native_batch_norm_legit.no_stats: the same without running statistics."""
    return _normalized(x, weight, bias, eps)[:3]


def native_batch_norm_backward(
    gradient: Any,
    x: Any,
    weight: Any,
    running_mean: Any,
    running_var: Any,
    save_mean: Any,
    save_invstd: Any,
    train: bool,
    eps: float,
    output_mask: Any,
) -> tuple[Any, Any, Any]:
    """aten.native_batch_norm_backward: to x, weight and bias.

    dx = w / σ (g - mean(g) - x̂ mean(g x̂)) with x̂ = (x - μ) / σ; without the means if μ and σ are the running ones.
    """
    dtype, axes = x.dtype, constant([0, *range(2, rank(x))])
    mean, inverse = save_mean, save_invstd
    if not train:
        mean, inverse = running_mean, op.Reciprocal(op.Sqrt(op.Add(running_var, constant(eps, dtype))))
    standard = op.Mul(op.Sub(x, _column(mean, x)), _column(inverse, x))
    weight_gradient = op.ReduceSum(op.Mul(gradient, standard), axes, keepdims=0)
    bias_gradient = op.ReduceSum(gradient, axes, keepdims=0)
    scale = inverse if weight is None else op.Mul(weight, inverse)
    centred = gradient
    if train:
        count = op.Cast(_count(x), to=dtype)
        shared = op.Mul(standard, _column(op.Div(weight_gradient, count), x))
        centred = op.Sub(op.Sub(gradient, _column(op.Div(bias_gradient, count), x)), shared)
    return op.Mul(centred, _column(scale, x)), weight_gradient, bias_gradient


def _normalized(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any, Any]:
    """The normalized x; mean, 1 / deviation and biased variance of the batch."""
    axes = constant([0, *range(2, rank(x))])
    mean = op.ReduceMean(x, axes, keepdims=0)
    offset = op.Sub(x, _column(mean, x))
    variance = op.ReduceMean(op.Mul(offset, offset), axes, keepdims=0)
    inverse = op.Reciprocal(op.Sqrt(op.Add(variance, constant(eps, x.dtype))))
    return _scaled(x, mean, inverse, weight, bias), mean, inverse, variance


def _scaled(x: Any, mean: Any, inverse: Any, weight: Any, bias: Any) -> Any:
    scale = inverse if weight is None else op.Mul(weight, inverse)
    scaled = op.Mul(op.Sub(x, _column(mean, x)), _column(scale, x))
    return scaled if bias is None else op.Add(scaled, _column(bias, x))


def _column(statistic: Any, x: Any) -> Any:
    """[channels] -> [channels, 1, …], to go with x [batch, channels, …]."""
    return op.Reshape(statistic, constant([-1] + [1] * (rank(x) - 2)))


def _count(x: Any) -> Any:
    """How many numbers of x each channel has, [1] int64."""
    sizes = op.Gather(op.Shape(x), constant([0, *range(2, rank(x))]))
    return op.ReduceProd(sizes, keepdims=1)


def _moved(running: Any, now: Any, momentum: float) -> Any:
    keep = op.Mul(running, constant(1.0 - momentum, ir.DataType.FLOAT))
    return op.Add(keep, op.Mul(now, constant(momentum, ir.DataType.FLOAT)))


_aten = torch.ops.aten
TABLE: dict[Any, Callable[..., Any]] = {
    _aten._native_batch_norm_legit_functional.default: native_batch_norm,
    _aten._native_batch_norm_legit.no_stats: native_batch_norm_no_stats,
    _aten.native_batch_norm_backward.default: native_batch_norm_backward,
}
