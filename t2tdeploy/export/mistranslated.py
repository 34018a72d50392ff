"""Translations (onnxscript) of operators that torch.onnx makes something else of, without a word."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import ir, opset18
from onnxscript.function_libs.torch_lib.ops.core import (
    aten_index,
    aten_index_put,
    aten_scatter_add,
    aten_scatter_reduce,
    aten_scatter_src,
)

op: Any = opset18  # its annotations are those of eager calls, not of values in a graph


def cross_entropy(
    x: Any, target: Any, weight: Any = None, reduction: int = 1, ignore_index: int = -100, label_smoothing: float = 0.0
) -> Any:
    """aten.cross_entropy_loss; torch.onnx's forgets label_smoothing and takes no probabilities.

    x is [batch, classes, …], target the classes [batch, …] or their probabilities, of the shape of x.
    """
    rank, classes = len(x.shape), x.shape[1]
    log_probs = op.LogSoftmax(x, axis=1)
    weighted = log_probs
    if weight is not None:
        weighted = op.Mul(log_probs, op.Reshape(weight, [1, -1, *[1] * (rank - 2)]))
    smooth = op.Neg(op.ReduceSum(weighted, [1], keepdims=0))
    if x.dtype == target.dtype:
        loss = op.Neg(op.ReduceSum(op.Mul(weighted, target), [1], keepdims=0))
        counted = op.Expand(op.CastLike(op.Constant(value_float=1.0), x), op.Shape(loss))
    else:
        loss = op.NegativeLogLikelihoodLoss(log_probs, target, weight, ignore_index=ignore_index, reduction="none")
        known = op.Not(op.Equal(target, op.CastLike(op.Constant(value_int=ignore_index), target)))
        counted = op.CastLike(known, x)
        smooth = op.Where(known, smooth, op.CastLike(op.Constant(value_float=0.0), x))  # it may be infinite
        if weight is not None:
            first = op.CastLike(op.Constant(value_int=0), target)
            counted = op.Mul(counted, op.Gather(weight, op.Where(known, target, first)))
    if label_smoothing:
        loss = op.Add(op.Mul(loss, 1 - label_smoothing), op.Mul(smooth, label_smoothing / classes))
    if reduction == _NONE:
        return loss
    total = op.ReduceSum(loss, keepdims=0)
    return total if reduction == _SUM else op.Div(total, op.ReduceSum(counted, keepdims=0))


_NONE, _SUM = 0, 2  # of torch's reductions


def index(x: Any, indices: Sequence[Any]) -> Any:
    """aten.index.Tensor; torch.onnx's graphs are not loaded with int32, and forget what is beside a mask."""
    given = [one for one in indices if one is not None]
    if len(given) > 1 and any(one.dtype == ir.DataType.BOOL for one in given):
        raise NotImplementedError("a mask and other indices at once")
    return aten_index(x, as_int64(indices))


def index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """aten.index_put; torch.onnx's graphs are not loaded with int32."""
    return aten_index_put(x, as_int64(indices), values, accumulate)


def as_int64(indices: Sequence[Any]) -> list[Any]:
    """Indices, int32 or int64, as int64; masks and None as they are."""
    return [_widened(one) if one is not None and one.dtype == ir.DataType.INT32 else one for one in indices]


def _widened(one: Any) -> Any:
    wide = op.Cast(one, to=ir.DataType.INT64)
    wide.shape, wide.dtype = one.shape, ir.DataType.INT64  # which torch.onnx asks for
    return wide


def scatter(x: Any, dim: int, index: Any, src: Any) -> Any:
    """aten.scatter.src; torch.onnx's fails where the index is smaller than src."""
    return aten_scatter_src(x, dim, index, _as_large_as(index, src))


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """aten.scatter_add; torch.onnx's fails where the index is smaller than src."""
    return aten_scatter_add(x, dim, index, _as_large_as(index, src))


def scatter_reduce(x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> Any:
    """aten.scatter_reduce.two; torch.onnx's overwrites for a mean, and fails where the index is smaller than src."""
    src = _as_large_as(index, src)
    if reduce != "mean":
        return aten_scatter_reduce(x, dim, index, src, reduce, include_self)
    if not x.shape or not x.dtype.is_floating_point():
        raise NotImplementedError(f"reduce = 'mean' of {x.dtype} and {len(x.shape)} axes")
    zero, one = (op.CastLike(op.Constant(value_float=value), x) for value in (0.0, 1.0))
    count = op.ScatterElements(
        op.Expand(zero, op.Shape(x)), index, op.Expand(one, op.Shape(index)), axis=dim, reduction="add"
    )
    start = x if include_self else op.Where(op.Greater(count, zero), zero, x)
    total = op.ScatterElements(start, index, src, axis=dim, reduction="add")
    return op.Div(total, op.Add(count, one) if include_self else op.Max(count, one))


def _as_large_as(index: Any, src: Any) -> Any:
    """What an index into it reads of src."""
    if list(src.shape) == list(index.shape):
        return src
    axes = [*range(len(index.shape))]
    read = op.Slice(src, [0] * len(axes), op.Shape(index), axes)
    read.shape, read.dtype = index.shape, src.dtype  # which torch.onnx asks for
    return read


def average_pool(
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """aten.avg_pool1d, 2d and 3d; torch.onnx's forget divisor_override.

    With ceil_mode its graphs may not be loaded: by ONNX 18 one more window fits than torch takes, and than onnxruntime
    computes.
    """
    axes, whole = len(kernel_size), divisor_override is not None
    strides, pads = [*(stride or kernel_size)], [*padding] * (axes // len(padding))
    batched = x if len(x.shape) == axes + 2 else op.Unsqueeze(x, [0])
    if ceil_mode:
        averages = _rounded_up(batched, kernel_size, strides, pads, count_include_pad, whole)
    else:
        counted = count_include_pad or whole
        averages = op.AveragePool(
            batched, kernel_shape=kernel_size, strides=strides, pads=pads * 2, count_include_pad=counted
        )
    if divisor_override is not None:
        places = op.Constant(value_float=math.prod(kernel_size) / divisor_override)
        averages = op.Mul(averages, op.CastLike(places, x))
    return averages if len(x.shape) == axes + 2 else op.Squeeze(averages, [0])


def _rounded_up(
    x: Any, kernel_size: Sequence[int], stride: list[int], pads: list[int], include_pad: bool, whole: bool
) -> Any:
    """Average pooling with ceil_mode: as many windows as begin in x or in the padding before it.

    Args:
        x: [batch, channels, spatial].
        whole: over all places of each window, else over those within x, or within it and its padding.
    """
    axes, one = len(pads), op.Constant(value_int=1)
    kernel, strides, before = (op.Constant(value_ints=[*part]) for part in (kernel_size, stride, pads))
    size = op.Shape(x, start=2)
    end = op.Add(size, before)
    fitting = op.Add(_divided_up(op.Sub(op.Add(end, before), kernel), strides), one)
    windows = op.Min(fitting, _divided_up(end, strides))
    reached = op.Add(op.Mul(op.Sub(windows, one), strides), kernel)
    averages = _within(x, before, reached, kernel_size, stride)
    if whole:
        return averages
    if include_pad:
        size, before = op.Add(end, before), op.Constant(value_ints=[0] * axes)
    ones = op.Expand(
        op.CastLike(op.Constant(value_float=1.0), x), op.Concat(op.Constant(value_ints=[1, 1]), size, axis=0)
    )
    return op.Div(averages, _within(ones, before, reached, kernel_size, stride))


def _divided_up(sizes: Any, by: Any) -> Any:
    return op.Div(op.Add(sizes, op.Sub(by, op.Constant(value_int=1))), by)


def _within(x: Any, before: Any, sizes: Any, kernel_size: Sequence[int], strides: list[int]) -> Any:
    """Averages of whole windows over x in the midst of zeros, or cut off behind, so that it has these spatial sizes."""
    after = op.Sub(op.Sub(sizes, before), op.Shape(x, start=2))
    places = op.Constant(value_ints=[*range(2, 2 + len(strides))])
    padded = op.Pad(x, op.Concat(before, after, axis=0), None, places)
    return op.AveragePool(padded, kernel_shape=kernel_size, strides=strides)


MISTRANSLATED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.cross_entropy_loss.default: cross_entropy,
    torch.ops.aten.index.Tensor: index,
    torch.ops.aten._unsafe_index.Tensor: index,
    torch.ops.aten.index_put.default: index_put,
    torch.ops.aten._unsafe_index_put.default: index_put,
    torch.ops.aten.scatter.src: scatter,
    torch.ops.aten.scatter_add.default: scatter_add,
    torch.ops.aten.scatter_reduce.two: scatter_reduce,
    torch.ops.aten.avg_pool1d.default: average_pool,
    torch.ops.aten.avg_pool2d.default: average_pool,
    torch.ops.aten.avg_pool3d.default: average_pool,
}
