"""Shapes, constants and casts, as translations need them: numbers where they are known, tensors where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnxscript import ir, opset18

op: Any = opset18  # its annotations are those of eager calls, not of values in a graph


def constant(value: Any, dtype: ir.DataType = ir.DataType.INT64) -> Any:
    """A constant tensor of nested lists of numbers."""
    return op.Constant(value=ir.tensor(np.array(value, dtype=dtype.numpy())))


def float32(x: Any) -> Any:
    """x as float32."""
    return x if x.dtype == ir.DataType.FLOAT else op.Cast(x, to=ir.DataType.FLOAT)


def as_type_of(x: Any, model: Any) -> Any:
    """x, which is float32, in the type of `model`."""
    return x if model.dtype == ir.DataType.FLOAT else op.Cast(x, to=model.dtype)


def rank(value: Any) -> int:
    """The number of axes, which torch.onnx always knows of an operator's input."""
    return len(value.shape)


def size(value: Any, axis: int) -> int | None:
    """The size of an axis, or None if it is dynamic."""
    found = value.shape[axis]
    return found if isinstance(found, int) else None


def shape_of(value: Any, start: int = 0, end: int | None = None) -> Any:
    """The sizes of the axes from `start` to before `end`, [axes] int64; a constant if they are known."""
    end = rank(value) if end is None else end
    sizes = [size(value, axis) for axis in range(start, end)]
    return op.Shape(value, start=start, end=end) if None in sizes else constant(sizes)


def size_vector(sizes: Sequence[Any]) -> Any:
    """Sizes as ATen passes them, numbers and [] tensors mixed, as one [n] int64."""
    if all(isinstance(one, int) for one in sizes):
        return constant([*sizes])
    parts = [constant([one]) if isinstance(one, int) else op.Reshape(one, constant([1])) for one in sizes]
    return op.Concat(*parts, axis=0) if len(parts) > 1 else parts[0]


def padded_to(value: Any, before: Any, sizes: Any, axes: Sequence[int]) -> Any:
    """Pads `axes` with zeros, or cuts off where it would pad by less than nothing.

    Args:
        before: how many zeros come before: a list, or a tensor [axes] int64.
        sizes: how long the axes become, [axes] int64.
        axes: consecutive.
    """
    before = constant(before) if isinstance(before, list) else before
    after = op.Sub(op.Sub(sizes, before), op.Shape(value, start=axes[0], end=axes[-1] + 1))
    return op.Pad(value, op.Concat(before, after, axis=0), None, constant([*axes]))
