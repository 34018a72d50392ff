"""Bytes of broken UTF-8, counted as Python counts them, in ONNX.

Where bytes are no character, SentencePiece writes one U+FFFD for each; `bytes.decode(errors="replace")` writes one for
as many bytes as could be the beginning of one character (Unicode 16.0, 3.9.6: maximal subparts). Without all but the
first byte of every such beginning, SentencePiece writes what Python does.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from t2tdeploy.export.nodes import Array, Nodes


def superfluous_bytes(nodes: Nodes, values: str) -> str:
    """Name of a mask [bytes]: all but the first byte of a character that is not finished.

    Args:
        values: name of the bytes [bytes], int64.
    """
    follow, low, high = (nodes.op("Gather", table, values) for table in _tables())
    count = nodes.op("Shape", values)
    fits = None  # whether so many bytes behind a first one belong to it
    matched = nodes.op("Mul", values, 0)
    for distance in (1, 2, 3):
        behind = _shifted(nodes, values, distance, count)
        here = nodes.op("And", nodes.op("LessOrEqual", low, behind), nodes.op("LessOrEqual", behind, high))
        here = nodes.op("And", here, nodes.op("LessOrEqual", distance, follow))
        fits = here if fits is None else nodes.op("And", fits, here)
        matched = nodes.op("Add", matched, nodes.op("Cast", fits, to=TensorProto.INT64))
        low, high = nodes.constant(0x80), nodes.constant(0xBF)  # of all but the second byte
    broken = nodes.op("Where", nodes.op("Less", matched, follow), matched, 0)
    masks = [nodes.op("LessOrEqual", distance, _shifted(nodes, broken, -distance, count)) for distance in (1, 2)]
    return nodes.op("Or", *masks)


def _shifted(nodes: Nodes, values: str, distance: int, count: str) -> str:
    """The value `distance` places further on, 0 where there is none."""
    padding = [0, distance] if distance > 0 else [-distance, 0]
    padded = nodes.op("Pad", values, padding)
    first = max(distance, 0)
    return nodes.op("Slice", padded, [first], nodes.op("Add", count, first))


def _tables() -> tuple[Array, Array, Array]:
    """By first byte: how many must follow, and the range of the second (Unicode 16.0, table 3-7)."""
    follow, low, high = np.zeros(256, np.int64), np.full(256, 0x80), np.full(256, 0xBF)
    follow[0xC2:0xE0], follow[0xE0:0xF0], follow[0xF0:0xF5] = 1, 2, 3
    low[0xE0], low[0xF0] = 0xA0, 0x90
    high[0xED], high[0xF4] = 0x9F, 0x8F
    return follow, low, high
