"""Weights as integers for products of unsigned with signed bytes that no CPU rounds wrongly.

CPUs without VNNI add the products of two neighbouring inputs in 16 bits, and saturate there (`vpmaddubsw`). So what is
limited are the sums of neighbours of one sign: 255 * 128 fits, 255 * 129 does not. A single weight may take 8 bits.
Giving every weight 7 bits instead, as is usual, halves their resolution for the sake of the few large neighbours.

Which way a weight is rounded is chosen for the product, not for the weight: the error of one input's weight is made up
for by the weights of the inputs after it (GPTQ, Frantar et al. 2022), as far as inputs go together in real sentences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_WEIGHT = 127
LARGEST_PAIR = 128
_BLOCK = 64  # inputs whose errors are spread over the rest at once
DAMPING = 0.01  # of the mean square of an input

Matrix = npt.NDArray[np.float32]


def quantize_weight(
    matrix: Matrix, moment: Matrix | None = None, *, damping: float = DAMPING, pairs: bool = True
) -> tuple[npt.NDArray[np.int8], Matrix]:
    """matrix [inputs, outputs] -> integers of the same shape, and scale [outputs]; matrix is about integers * scale.

    Args:
        moment: [inputs, inputs], sums of products of the inputs; None: each weight is rounded to the nearest integer.
        damping: noise added to the inputs, in parts of their mean square; more of it keeps weights nearer to their own.
        pairs: whether pairs are limited; only products of integers need it.
    """
    largest_pair = LARGEST_PAIR if pairs else 2 * LARGEST_WEIGHT + 1
    scale = _scale(matrix, largest_pair)
    if moment is None or not np.any(moment):
        return _nearest(matrix / scale, largest_pair), scale
    return _compensated(matrix / scale, moment, damping, largest_pair), scale


def _scale(matrix: Matrix, largest_pair: int) -> Matrix:
    """The smallest step with which all weights and pairs are in bounds after rounding; [outputs]."""
    pairs = _pairs(matrix)
    sums = np.maximum(np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1)).max(axis=0)
    # Rounding adds at most half to each weight of a pair.
    scale = np.maximum(np.abs(matrix).max(axis=0) / LARGEST_WEIGHT, sums / (largest_pair - 1))
    return positive(scale)


def positive(scale: npt.NDArray[Any]) -> Matrix:
    """Steps that can be divided by: 1 where all is zero, and none so small that a product with it is off by a step."""
    found: Matrix = np.where(scale == 0, 1, np.maximum(scale, np.finfo(np.float32).tiny)).astype(np.float32)
    return found


def _pairs(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[inputs, outputs] -> [pairs, 2, outputs]; an odd input is paired with zeros."""
    inputs, outputs = matrix.shape
    return np.pad(matrix, ((0, inputs % 2), (0, 0))).reshape(-1, 2, outputs)


def _nearest(steps: Matrix, largest_pair: int) -> npt.NDArray[np.int8]:
    rounded = np.round(steps).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT)
    rounded[1::2] = rounded[1::2].clip(*_bounds(rounded[0::2][: len(rounded) // 2], largest_pair))
    return rounded.astype(np.int8)


def _bounds(first: npt.NDArray[Any], largest_pair: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The smallest and the largest second weight of pairs with these first weights."""
    return (
        np.maximum(-largest_pair - np.minimum(first, 0), -LARGEST_WEIGHT),
        np.minimum(largest_pair - np.maximum(first, 0), LARGEST_WEIGHT),
    )


def _compensated(steps: Matrix, moment: Matrix, damping: float, largest_pair: int) -> npt.NDArray[np.int8]:
    """GPTQ: rounds input by input; the error moves on to the inputs not yet rounded."""
    inputs = len(moment)
    noise = damping * np.trace(moment, dtype=np.float64) / inputs
    inverse = np.linalg.inv(moment.astype(np.float64) + noise * np.eye(inputs))
    spread = np.linalg.cholesky(inverse).T.astype(np.float32)  # [inputs, inputs], upper triangle
    left, rounded = steps.astype(np.float32, copy=True), np.zeros(steps.shape, np.float32)
    for start in range(0, inputs, _BLOCK):
        stop = min(start + _BLOCK, inputs)
        errors = np.empty((stop - start, steps.shape[1]), np.float32)
        for row in range(start, stop):
            bounds = _bounds(rounded[row - 1], largest_pair) if row % 2 else (-LARGEST_WEIGHT, LARGEST_WEIGHT)
            rounded[row] = np.round(left[row]).clip(*bounds)
            errors[row - start] = (left[row] - rounded[row]) / spread[row, row]
            left[row + 1 : stop] -= spread[row, row + 1 : stop, None] * errors[row - start]
        left[stop:] -= spread[start:stop, stop:].T @ errors
    return rounded.astype(np.int8)
