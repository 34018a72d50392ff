"""Embeddings, indexing with tensors, slices and splits, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from onnxscript import ir
from onnxscript.function_libs.torch_lib.ops.core import aten_index_put

from t2tdeploy.export.mistranslated import as_int64
from t2tdeploy.models import tokens
from t2tdeploy.training.graph.translations.rows import summed_rows
from t2tdeploy.training.graph.translations.shapes import constant, op, padded_to, rank, shape_of, size, size_vector


def embedding_dense_backward(
    gradient: Any, ids: Any, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Any:
    """aten.embedding_dense_backward: gradient [..., hidden] to the rows of ids [...] -> [num_weights, hidden]."""
    if scale_grad_by_freq:
        raise NotImplementedError("scale_grad_by_freq")
    width = shape_of(gradient, rank(gradient) - 1)
    rows = op.Reshape(gradient, op.Concat(constant([-1]), width, axis=0))
    (ids,) = as_int64([ids])
    return summed_rows(
        rows, op.Reshape(ids, constant([-1])), constant([num_weights]), width, gradient.dtype, dropped=padding_idx
    )


def index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """aten.index_put: torch.onnx's own, but for sums, where an index may repeat (see `rows`)."""
    indices = as_int64(indices)
    indexed = [axis for axis, index in enumerate(indices) if index is not None]
    if not accumulate or any(indices[axis].dtype == ir.DataType.BOOL for axis in indexed):
        return aten_index_put(x, indices, values, accumulate)
    ranks = [rank(indices[axis]) for axis in indexed]
    others = [axis for axis in range(rank(x)) if axis not in indexed]
    front = [op.Shape(x, start=axis, end=axis + 1) for axis in indexed]
    flat = _flat_index([indices[axis] for axis in indexed], front)
    kept: Any = op.Concat(*(op.Shape(x, start=axis, end=axis + 1) for axis in others), axis=0) if others else None
    count, width = _product(front), (op.ReduceProd(kept) if others else constant([1]))
    rows = _as_rows(values, max(ranks), indexed, len(others), flat, kept, width)
    sums = summed_rows(rows, op.Reshape(flat, constant([-1])), count, width, values.dtype)
    shape = op.Concat(*front, *([kept] if others else []), axis=0)
    order = [*indexed, *others]
    back = op.Transpose(op.Reshape(sums, shape), perm=[order.index(axis) for axis in range(rank(x))])
    return op.Add(x, back)


def _flat_index(indices: Sequence[Any], sizes: Sequence[Any]) -> Any:
    """One index into the axes of `sizes` taken together, from the broadcast indices into each."""
    flat = None
    for index, length in zip(indices, sizes, strict=True):
        wrapped = op.Where(op.Less(index, constant(0)), op.Add(index, length), index)
        flat = wrapped if flat is None else op.Add(op.Mul(flat, length), wrapped)
    return flat


def _product(sizes: Sequence[Any]) -> Any:
    result = sizes[0]
    for length in sizes[1:]:
        result = op.Mul(result, length)
    return result


def _as_rows(
    values: Any, index_rank: int, indexed: Sequence[int], others: int, flat: Any, kept: Any, width: Any
) -> Any:
    """`values`, which broadcast to the indexed tensor, as one row per index, [n, width]."""
    adjacent = indexed[-1] - indexed[0] + 1 == len(indexed)
    before = indexed[0] if adjacent else 0  # axes in front of those of the index
    full = index_rank + others
    missing = full - rank(values)
    if missing:
        values = op.Unsqueeze(values, constant([*range(missing)]))
    perm = [*range(before, before + index_rank), *range(before), *range(before + index_rank, full)]
    target = op.Concat(op.Shape(flat), kept, axis=0) if others else op.Shape(flat)
    values = op.Expand(op.Transpose(values, perm=perm), target)
    return op.Reshape(values, op.Concat(constant([-1]), width, axis=0))


def split(x: Any, length: Any, dim: int = 0) -> list[Any]:
    """aten.split.Tensor, without a Sequence: the number of parts is known."""
    total = size(x, dim)
    if total is None or not isinstance(length, int):
        raise NotImplementedError("a dynamic axis in a fixed number of parts")
    return split_with_sizes(x, [min(length, total - start) for start in range(0, total, length)], dim)


def split_with_sizes(x: Any, sizes: Sequence[Any], dim: int = 0) -> list[Any]:
    """aten.split_with_sizes"""
    if len(sizes) == 1:
        return [op.Identity(x)]
    if len(set(sizes)) == 1 and isinstance(sizes[0], int):
        return [*op.Split(x, axis=dim, num_outputs=len(sizes))]
    ends = [constant([0])]
    for one in sizes:
        ends.append(op.Add(ends[-1], size_vector([one])))
    return [op.Slice(x, start, end, constant([dim])) for start, end in pairwise(ends)]


def unbind(x: Any, dim: int = 0) -> list[Any]:
    """aten.unbind.int"""
    length = size(x, dim)
    if length is None:
        raise NotImplementedError("a dynamic axis in a fixed number of parts")
    return [op.Gather(x, constant(place), axis=dim) for place in range(length)]


def slice_backward(gradient: Any, input_sizes: Sequence[Any], dim: int, start: Any, end: Any, step: int) -> Any:
    """aten.slice_backward: zeros around the gradient, and between its places if step > 1."""
    dim %= rank(gradient)
    total, begin = size_vector([input_sizes[dim]]), size_vector([start])
    begin = op.Where(op.Less(begin, constant([0])), op.Add(begin, total), begin)
    begin = op.Max(op.Min(begin, total), constant([0]))
    if step > 1:
        apart = padded_to(op.Unsqueeze(gradient, constant([dim + 1])), [0], constant([step]), [dim + 1])
        long = op.Mul(op.Shape(gradient, start=dim, end=dim + 1), constant([step]))
        shape = [op.Shape(gradient, start=0, end=dim), long, op.Shape(gradient, start=dim + 1)]
        gradient = op.Reshape(apart, op.Concat(*shape, axis=0))
    return padded_to(gradient, begin, total, [dim])


def select_backward(gradient: Any, input_sizes: Sequence[Any], dim: int, index: Any) -> Any:
    """aten.select_backward: zeros but at one place of an axis."""
    dim %= len(input_sizes)
    total, place = size_vector([input_sizes[dim]]), size_vector([index])
    place = op.Where(op.Less(place, constant([0])), op.Add(place, total), place)
    return padded_to(op.Unsqueeze(gradient, constant([dim])), place, total, [dim])


def take_rows(x: Any, index: Any, back: Any) -> Any:
    """t2tdeploy.take_rows (models/tokens.py), of which `back` is for the gradient alone."""
    return op.Gather(x, index, axis=0)


_aten = torch.ops.aten
TABLE: dict[Any, Callable[..., Any]] = {
    _aten.embedding_dense_backward.default: embedding_dense_backward,
    _aten.index_put.default: index_put,
    _aten._unsafe_index_put.default: index_put,
    _aten.split.Tensor: split,
    _aten.split_with_sizes.default: split_with_sizes,
    _aten.unbind.int: unbind,
    _aten.slice_backward.default: slice_backward,
    _aten.select_backward.default: select_backward,
    tokens.take_rows._opoverload: take_rows,
}
