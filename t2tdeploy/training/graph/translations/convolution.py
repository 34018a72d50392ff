"""Gradients of convolutions of any number of axes, strides, padding, dilation and groups, and of transposed ones.

The gradient to the input of a convolution is a transposed convolution and the other way round; the gradient to the
weight is a convolution of input and gradient in which batch and channels, stride and dilation change places (Dumoulin
and Visin, A guide to convolution arithmetic for deep learning, 2016).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from t2tdeploy.training.graph.translations.shapes import constant, op, padded_to, rank, shape_of, size

# Of the input, all that a kernel meets at one of its places: less is not worth a matrix product.
_LEAST_CHANNELS, _LEAST_NUMBERS = 8, 2048


class _Geometry(NamedTuple):
    """Of the convolution (or of the one that is transposed): one number per spatial axis, as ONNX wants them."""

    strides: list[int]
    padding: list[int]
    dilations: list[int]
    group: int

    @property
    def pads(self) -> list[int]:
        """Before every axis, then after every axis."""
        return [*self.padding, *self.padding]


def convolution_backward(
    gradient: Any,
    x: Any,
    weight: Any,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Any, Any, Any]:
    """aten.convolution_backward: gradients to x [batch, in, ...], weight and bias [out]."""
    axes = rank(x) - 2
    stride, padding, dilation = (_per_axis(numbers, axes) for numbers in (stride, padding, dilation))
    geometry = _Geometry(stride, padding, dilation, groups)
    large, small = (gradient, x) if transposed else (x, gradient)
    # torch.onnx wants a value for results that nobody asked for, too.
    x_gradient = weight_gradient = bias_gradient = constant(0.0, gradient.dtype)
    if output_mask[0]:
        x_gradient = _convolved(gradient, weight, geometry) if transposed else _spread(x, gradient, weight, geometry)
    if output_mask[1]:
        weight_gradient = _weight_gradient(large, small, weight, geometry)
    if output_mask[2]:
        bias_gradient = op.ReduceSum(gradient, constant([0, *range(2, rank(gradient))]), keepdims=0)
    return x_gradient, weight_gradient, bias_gradient


def _per_axis(numbers: Sequence[int], axes: int) -> list[int]:
    return [*numbers] * axes if len(numbers) == 1 else [*numbers]


def _convolved(x: Any, weight: Any, geometry: _Geometry) -> Any:
    strides, _, dilations, group = geometry
    return op.Conv(x, weight, strides=strides, pads=geometry.pads, dilations=dilations, group=group)


def _spread(x: Any, gradient: Any, weight: Any, geometry: _Geometry) -> Any:
    """The gradient to the input `x` of a convolution."""
    strides, padding, dilations, group = geometry
    around = [dilation * (weight.shape[2 + axis] - 1) - padding[axis] for axis, dilation in enumerate(dilations)]
    if group == 1 and max(strides) == 1 and min(around) >= 0:
        return _convolved(gradient, _turned(weight), _Geometry(strides, around, dilations, group))
    remainders = _remainders(x, weight, geometry)
    if None not in remainders:
        return op.ConvTranspose(
            gradient,
            weight,
            strides=strides,
            pads=geometry.pads,
            dilations=dilations,
            group=group,
            output_padding=remainders,
        )
    whole = op.ConvTranspose(gradient, weight, strides=strides, dilations=dilations, group=group)
    axes = [*range(2, rank(x))]
    return padded_to(whole, [-p for p in padding], shape_of(x, 2), axes)


def _turned(weight: Any) -> Any:
    """For the convolution that a transposed one of stride 1 is, which takes CPUs two thirds of the time: [in, out,
    ...], every spatial axis backwards."""
    axes = [*range(2, rank(weight))]
    last, beyond, back = [-1] * len(axes), [-(2**31)] * len(axes), [-1] * len(axes)
    swapped = op.Transpose(weight, perm=[1, 0, *axes])
    return op.Slice(swapped, constant(last), constant(beyond), constant(axes), constant(back))


def _remainders(x: Any, weight: Any, geometry: _Geometry) -> list[int | None]:
    """How many places of each axis the strides leave over at the end; None where the size is dynamic."""
    found: list[int | None] = []
    for axis, (stride, padding, dilation) in enumerate(zip(*geometry[:3], strict=True)):
        length, reach = size(x, 2 + axis), dilation * (weight.shape[2 + axis] - 1) + 1
        known = None if length is None else (length + 2 * padding - reach) % stride
        found.append(0 if stride == 1 else known)
    return found


def _weight_gradient(large: Any, small: Any, weight: Any, geometry: _Geometry) -> Any:
    """[small channels, large channels / groups, ...]"""
    places = [one for axis in range(2, rank(small)) if (one := size(small, axis)) is not None]
    known, channels = len(places) == rank(small) - 2, large.shape[1]
    if geometry.group > 1 or not known or channels < _LEAST_CHANNELS or channels * math.prod(places) < _LEAST_NUMBERS:
        return _slid_over(large, small, weight, geometry)
    return _products_by_place(large, small, weight, geometry, places)


def _products_by_place(large: Any, small: Any, weight: Any, geometry: _Geometry, steps: Sequence[int]) -> Any:
    """For each place of the kernel a matrix product: of `small`, and of what of `large` it meets there, `steps` times.

    On CPUs it takes half the time of the convolution below, whose kernel is as large as the image, of large images.
    """
    strides, padding, dilations, _ = geometry
    spatial = [*range(2, rank(large))]
    channels_first = [1, 0, *spatial]
    padded = op.Transpose(large, perm=channels_first)
    if any(padding):
        padded = op.Pad(padded, constant([0, 0, *padding, 0, 0, *padding]))
    rows = op.Reshape(op.Transpose(small, perm=channels_first), constant([small.shape[1], -1]))
    products = []
    for place in itertools.product(*(range(weight.shape[axis]) for axis in spatial)):
        starts = [at * dilation for at, dilation in zip(place, dilations, strict=True)]
        ends = [start + (count - 1) * stride + 1 for start, count, stride in zip(starts, steps, strides, strict=True)]
        met = op.Slice(padded, constant(starts), constant(ends), constant(spatial), constant([*strides]))
        products.append(op.Gemm(rows, op.Reshape(met, constant([large.shape[1], -1])), transB=1))
    kernel = [weight.shape[axis] for axis in spatial]
    stacked = op.Concat(*products, axis=0) if len(products) > 1 else products[0]
    found = op.Reshape(stacked, constant([*kernel, small.shape[1], large.shape[1]]))
    axes = len(kernel)
    return op.Transpose(found, perm=[axes, axes + 1, *range(axes)])


def _slid_over(large: Any, small: Any, weight: Any, geometry: _Geometry) -> Any:
    """A convolution in which `small` slides over `large`."""
    strides, _, dilations, group = geometry
    spatial = [*range(2, rank(large))]
    kernel = op.Transpose(small, perm=[1, 0, *spatial])
    channels = large.shape[1] // group
    if group == 1:
        images = op.Transpose(large, perm=[1, 0, *spatial])
    else:
        split = op.Reshape(large, op.Concat(constant([0, group, channels]), shape_of(large, 2), axis=0))
        merged = op.Transpose(split, perm=[2, 1, 0, *(axis + 1 for axis in spatial)])
        images = op.Reshape(merged, op.Concat(constant([channels, -1]), shape_of(large, 2), axis=0))
    found = op.Conv(images, kernel, strides=dilations, pads=geometry.pads, dilations=strides, group=group)
    # Strides that do not divide the input leave places behind it, which no kernel reached.
    last = [weight.shape[axis] for axis in spatial]
    found = op.Slice(found, constant([0] * len(last)), constant(last), constant(spatial))
    return op.Transpose(found, perm=[1, 0, *spatial])


TABLE: dict[Any, Callable[..., Any]] = {torch.ops.aten.convolution_backward.default: convolution_backward}
