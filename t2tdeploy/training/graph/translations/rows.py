"""Sums of rows by index: gradients of embeddings, of indexing with tensors, and of everything that reads places twice.

ONNX has two operators for it, and onnxruntime's CPU kernels of neither will do: ScatterND with reduction=add runs its
updates in parallel and loses some where indices repeat; ScatterElements is sequential, but takes an index for each
number. `summed_rows` sorts the rows by index instead, sums each block of rows by a small matrix product, writes sums
of different indices in parallel, and leaves to ScatterElements only the few that continue from block to block: 8 to 10
times as fast for the gradient of an embedding. On a GPU ScatterND adds atomically, and is one kernel.
"""

from __future__ import annotations

from typing import Any

from onnxscript import ir

from t2tdeploy.training.graph.target import current_target
from t2tdeploy.training.graph.translations.shapes import constant, op

_BLOCK = 32  # rows of one matrix product; 16 to 64 measure the same
_DROPPED = -1


def summed_rows(rows: Any, ids: Any, count: Any, width: Any, dtype: ir.DataType, *, dropped: int = _DROPPED) -> Any:
    """Row i of the result is the sum of the rows whose id is i.

    Args:
        rows: [n, width] float, n at least 1.
        ids: [n] int64, at least 0 and less than `count`.
        count: [1] int64, how many rows the result has.
        width: [1] int64.
        dtype: of `rows`.
        dropped: rows of this id are left out.

    Returns:
        [count, width]
    """
    if current_target().device == "cuda":
        return _scattered_rows(rows, ids, count, width, dtype, dropped)
    first, one, last, block = constant([0]), constant([1]), constant([-1]), constant([_BLOCK])
    blocks = constant([-1, _BLOCK])
    n = op.Shape(ids)
    by_id, order = op.TopK(ids, n, axis=0, largest=0, sorted=1)
    filling = op.Concat(first, op.Mod(op.Neg(n), block), axis=0)
    by_id = op.Pad(by_id, filling, mode="edge")
    order = op.Pad(order, filling, constant(_DROPPED))
    # Where an id begins; the number of such places before each place of a block is the place's row of sums.
    begins = op.Not(op.Equal(by_id, op.Concat(last, op.Slice(by_id, first, last), axis=0)))
    begins_by_block = op.Reshape(op.Cast(begins, to=ir.DataType.INT64), blocks)
    continued = op.Slice(begins_by_block, first, one, one)
    place = op.Sub(op.CumSum(begins_by_block, constant(1)), continued)
    left_out = op.Or(op.Equal(order, constant(_DROPPED)), op.Equal(by_id, constant(dropped)))
    wanted = op.Where(op.Reshape(left_out, blocks), constant(_DROPPED), place)
    mask = op.Equal(op.Unsqueeze(wanted, one), constant([[[i] for i in range(_BLOCK)]]))
    sorted_rows = op.Reshape(op.Gather(rows, order, axis=0), op.Concat(last, block, width, axis=0))
    sums = op.MatMul(op.Cast(mask, to=dtype), sorted_rows)
    sums = op.Reshape(sums, op.Concat(last, width, axis=0))
    # Sums of ids that begin in their block: no two have the same id.
    at = op.Squeeze(op.NonZero(begins), first)
    row = op.Add(op.Mul(op.Div(at, block), block), op.Gather(op.Reshape(place, last), at))
    zeros = op.ConstantOfShape(op.Concat(count, width, axis=0), value=ir.tensor([0.0], dtype=dtype))
    table = op.ScatterND(zeros, op.Unsqueeze(op.Gather(by_id, at), last), op.Gather(sums, row, axis=0))
    # The first sums of the other blocks, whose ids began before.
    later = op.Slice(op.NonZero(op.Equal(continued, constant(0))), first, one, first)
    row = op.Mul(op.Squeeze(later, first), block)
    rest = op.Gather(sums, row, axis=0)
    target = op.Expand(op.Unsqueeze(op.Gather(by_id, row), last), op.Shape(rest))
    return op.ScatterElements(table, target, rest, axis=0, reduction="add")


def _scattered_rows(rows: Any, ids: Any, count: Any, width: Any, dtype: ir.DataType, dropped: int) -> Any:
    """`summed_rows` by ScatterND, in float32: not every GPU adds 16-bit numbers atomically."""
    full = ir.DataType.FLOAT
    wide, column = (rows if dtype == full else op.Cast(rows, to=full)), op.Unsqueeze(ids, constant([-1]))
    if dropped != _DROPPED:
        wide = op.Where(op.Equal(column, constant(dropped)), constant(0.0, full), wide)
    zeros = op.ConstantOfShape(op.Concat(count, width, axis=0), value=ir.tensor([0.0], dtype=full))
    sums = op.ScatterND(zeros, column, wide, reduction="add")
    return sums if dtype == full else op.Cast(sums, to=dtype)
