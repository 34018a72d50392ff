"""Hashes that a graph and Python compute alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from t2tdeploy.columns.values import Array

CROSS_PRIME = 2**31 - 1
CROSS_FACTOR = 1_103_515_245
"""`mix_ids`; below 2^31 both, so that no product leaves int64."""

_MASK = 0xFFFFFFFF


def hash_texts(texts: Iterable[str], buckets: int) -> Array:
    """int64 [batch], from 0: MurmurHash3 of the UTF-8 of each text, modulo `buckets`.

    It is a hash that onnxruntime computes of strings without further libraries (its operator MurmurHash3), and that
    scikit-learn's feature hashing takes.
    """
    known: dict[str, int] = {}
    found = []
    for text in texts:
        if text not in known:
            known[text] = murmur3(text.encode()) % buckets
        found.append(known[text])
    return np.array(found, np.int64)


def murmur3(data: bytes) -> int:
    """MurmurHash3_x86_32 of Austin Appleby with seed 0, as an unsigned number."""
    state, whole = 0, len(data) & ~3
    for start in range(0, whole, 4):
        state ^= _scrambled(int.from_bytes(data[start : start + 4], "little"))
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & _MASK  # which also cuts the rotation to 32 bits
    state = (state ^ _scrambled(int.from_bytes(data[whole:], "little"))) ^ len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = (state ^ state >> shift) * factor & _MASK
    return state ^ state >> 16


def _scrambled(block: int) -> int:
    block = block * 0xCC9E2D51 & _MASK
    return (block << 15 | block >> 17) * 0x1B873593 & _MASK


def mix_ids(ids: Sequence[Array], buckets: int) -> Array:
    """int64 [batch], from 0: a polynomial of the ids modulo a prime (Carter and Wegman 1979), modulo `buckets`.

    Args:
        ids: int64 [batch] each, not negative.
    """
    state = np.zeros_like(ids[0])
    for part in ids:
        state = (state * CROSS_FACTOR + part + 1) % CROSS_PRIME
    return state % buckets
