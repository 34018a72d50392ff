"""Pooling: what torch.onnx lacks of it, most of all the gradients.

Average pooling is linear. Its gradient spreads each output over its window: a transposed convolution of one channel
with a kernel of ones. Adaptive pooling multiplies each axis with a small matrix, its gradient with the transposed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import ir

from t2tdeploy.training.graph.translations.shapes import constant, op, padded_to, rank, shape_of, size_vector


def max_pool_backward(
    gradient: Any,
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Any,
) -> Any:
    """aten.max_pool2d_with_indices_backward, and that of 3d; x [..., channels, spatial], unbatched too."""
    return _scattered(gradient, x, indices, len(kernel_size))


def adaptive_max_pool2d_backward(gradient: Any, x: Any, indices: Any) -> Any:
    """aten.adaptive_max_pool2d_backward"""
    return _scattered(gradient, x, indices, 2)


def _scattered(gradient: Any, x: Any, indices: Any, axes: int) -> Any:
    """Each gradient goes to the place, counted over the last `axes` axes of x, that its index names."""
    leading = rank(x) - axes
    planes = op.ReduceProd(shape_of(x, 0, leading))
    by_plane = op.Concat(planes, constant([-1]), axis=0)
    zeros = op.Expand(constant(0.0, gradient.dtype), op.Concat(planes, op.ReduceProd(shape_of(x, leading)), axis=0))
    places, values = op.Reshape(indices, by_plane), op.Reshape(gradient, by_plane)
    return op.Reshape(op.ScatterElements(zeros, places, values, axis=1, reduction="add"), op.Shape(x))


def avg_pool_backward(
    gradient: Any,
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Any:
    """aten.avg_pool2d_backward, and that of 3d; x [..., spatial]"""
    axes = len(kernel_size)
    sizes = shape_of(x, rank(x) - axes)
    strides, pads = [*(stride or kernel_size)], [*padding] * (axes // len(padding))
    divisor = divisor_override
    if divisor is None and not ceil_mode and (count_include_pad or not any(pads)):
        divisor = math.prod(kernel_size)
    window = constant(np.full([1, 1, *kernel_size], 1 / (divisor or 1)), gradient.dtype)
    planes = op.Reshape(gradient, op.Concat(constant([-1, 1]), op.Shape(gradient, start=rank(x) - axes), axis=0))
    if divisor is None:
        one = constant([1.0], gradient.dtype)
        planes = op.Div(planes, _window_sizes(planes, one, sizes, kernel_size, strides, pads, count_include_pad))
    spread = op.ConvTranspose(planes, window, strides=strides)
    spread = padded_to(spread, [-pad for pad in pads], sizes, [*range(2, 2 + axes)])
    return op.Reshape(spread, op.Shape(x))


def _window_sizes(
    planes: Any, one: Any, sizes: Any, kernel: Sequence[int], strides: list[int], pads: list[int], include_pad: bool
) -> Any:
    """How many places each window of `planes` averages, [1, 1, spatial]: fewer at the borders."""
    counted = op.Add(sizes, constant([2 * pad for pad in pads])) if include_pad else sizes
    before = [0 if include_pad else pad for pad in pads]
    steps = op.Sub(op.Shape(planes, start=2), constant([1]))
    reached = op.Add(op.Mul(steps, constant(strides)), constant([*kernel]))
    places = op.Expand(one, op.Concat(constant([1, 1]), counted, axis=0))
    places = padded_to(places, before, reached, [*range(2, 2 + len(pads))])
    return op.Conv(places, op.Expand(one, constant([1, 1, *kernel])), strides=strides)


def adaptive_avg_pool(x: Any, output_size: Sequence[Any]) -> Any:
    """aten._adaptive_avg_pool2d, and that of 3d"""
    axes, dtype = rank(x), x.dtype
    for axis, length in enumerate(output_size, start=axes - len(output_size)):
        matrix = _averages(size_vector([length]), op.Shape(x, start=axis, end=axis + 1), dtype)
        x = _along(x, axis, axes, matrix)
    return x


def adaptive_avg_pool2d_backward(gradient: Any, x: Any) -> Any:
    """aten._adaptive_avg_pool2d_backward"""
    return _adaptive_avg_pool_backward(gradient, x, 2)


def adaptive_avg_pool3d_backward(gradient: Any, x: Any) -> Any:
    """aten._adaptive_avg_pool3d_backward"""
    return _adaptive_avg_pool_backward(gradient, x, 3)


def _adaptive_avg_pool_backward(gradient: Any, x: Any, spatial: int) -> Any:
    axes, dtype = rank(x), gradient.dtype
    for axis in range(axes - spatial, axes):
        windows, places = (op.Shape(value, start=axis, end=axis + 1) for value in (gradient, x))
        averages = _averages(windows, places, dtype)
        gradient = _along(gradient, axis, axes, op.Transpose(averages, perm=[1, 0]))
    return gradient


def _along(x: Any, axis: int, axes: int, matrix: Any) -> Any:
    """matrix [m, n] times an axis of x: [..., n, ...] -> [..., m, ...]; x has `axes` axes."""
    if axis == axes - 1:
        return op.MatMul(x, op.Transpose(matrix, perm=[1, 0]))
    if axis == axes - 2:
        return op.MatMul(matrix, x)
    after = op.Shape(x, start=axis + 1)
    flat = op.Concat(constant([-1]), op.Shape(x, start=axis, end=axis + 1), op.ReduceProd(after), axis=0)
    product = op.MatMul(matrix, op.Reshape(x, flat))
    shape = op.Concat(op.Shape(x, start=0, end=axis), op.Shape(matrix, start=0, end=1), after, axis=0)
    return op.Reshape(product, shape)


def _places(length: Any) -> Any:
    """0..length-1, [length] int64"""
    return op.Range(constant(0), op.Squeeze(length, constant([0])), constant(1))


def _averages(windows: Any, places: Any, dtype: ir.DataType) -> Any:
    """[windows, places]: each row averages the places from floor(i p / w) to before ceil((i + 1) p / w)."""
    window, place = op.Unsqueeze(_places(windows), constant([1])), _places(places)
    start = op.Div(op.Mul(window, places), windows)
    end_ = op.Add(op.Mul(op.Add(window, constant([1])), places), op.Sub(windows, constant([1])))
    end = op.Div(end_, windows)
    inside = op.And(op.GreaterOrEqual(place, start), op.Less(place, end))
    return op.Div(op.Cast(inside, to=dtype), op.Cast(op.Sub(end, start), to=dtype))


_aten = torch.ops.aten
TABLE: dict[Any, Callable[..., Any]] = {
    _aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    _aten.max_pool3d_with_indices_backward.default: max_pool_backward,
    _aten.adaptive_max_pool2d_backward.default: adaptive_max_pool2d_backward,
    _aten.avg_pool2d_backward.default: avg_pool_backward,
    _aten.avg_pool3d_backward.default: avg_pool_backward,
    _aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
    _aten._adaptive_avg_pool3d.default: adaptive_avg_pool,
    _aten._adaptive_avg_pool2d_backward.default: adaptive_avg_pool2d_backward,
    _aten._adaptive_avg_pool3d_backward.default: adaptive_avg_pool3d_backward,
}
