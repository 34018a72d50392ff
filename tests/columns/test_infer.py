"""What columns are taken for when nobody says what they are."""

from __future__ import annotations

import numpy as np
import pytest

from t2tdeploy.columns.declare import Declaration, numeric, vocabulary
from t2tdeploy.columns.infer import infer_column, is_class
from t2tdeploy.columns.values import Array


def texts(*values: str) -> Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found


SECONDS = (
    "its numbers, from 1764408490 to 1764408530, are too close for float32 to tell them apart: subtract the same from "
    "all, or say that they are a vocabulary"
)
REPEATED = texts(*(f"value {i % 150}" for i in range(400)), "once")


@pytest.mark.parametrize(
    ("values", "declaration", "reason"),
    [
        (np.array([1, 2.5, np.nan]), numeric("c"), "numeric, from 1 to 2.5, 1 missing"),
        (np.array([np.nan, np.inf]), None, "it has no values"),
        (np.array([3.0, 3, np.nan]), None, "it is 3 in every row, 1 missing"),
        (np.arange(30.0), None, "it numbers the rows"),
        (np.arange(30.0)[::-1], numeric("c"), "numeric, from 0 to 29"),
        (1764408490 + np.arange(50.0) % 41, None, SECONDS),
        (1764408490 + 86400 * (np.arange(50.0) % 41), numeric("c"), "numeric, from 1.76441e+09 to 1.76786e+09"),
        (np.array([1e308, 0.5, np.nan, 2.0]), numeric("c"), "numeric, from 0.5 to 1e+308, 1 missing"),
        (texts("a", "b", "", "a"), vocabulary("c"), "vocabulary, 2 values, 1 missing"),
        (texts("", ""), None, "it has no values"),
        (texts("a", "a"), None, "it is 'a' in every row"),
        (texts("a", ""), vocabulary("c"), "vocabulary, 1 values, 1 missing"),
        (texts(*map(str, range(50))), None, "50 of 50 texts are different: most rows have one of their own"),
        (REPEATED, vocabulary("c", min_count=2), "vocabulary, 151 values, 1 of one row only"),
    ],
)
def test_proposals(values: Array, declaration: Declaration | None, reason: str) -> None:
    proposal = infer_column("c", values)
    assert proposal.declaration == declaration
    assert proposal.reason == reason


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (texts("yes", "no"), True),
        (np.array([0.0, 1, np.nan]), True),
        (np.array([0.0, 0.5]), False),
        (np.arange(20.0), True),
        (np.arange(21.0), False),
    ],
)
def test_targets(values: Array, expected: bool) -> None:
    assert is_class(values) is expected
