"""Columns and raw values that nobody would hope for, drawn by hypothesis."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from t2tdeploy.columns.declare import Declaration, bucketized, crossed, hashed, numeric, vocabulary
from t2tdeploy.columns.values import Array, RawColumn, raw_array

NUMBERS = RawColumn("number", "number")
TEXTS = RawColumn("a text", "text")
VECTORS = RawColumn("vector", "number", (3,))
RAW = {column.name: column for column in (NUMBERS, TEXTS, VECTORS)}

numbers = st.one_of(
    st.none(),
    st.floats(width=32),  # NaN, infinities and the smallest numbers among them
    st.integers(-5, 5),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e-45, 3e38, 1e300, "", "7", "NaN", True]),
)
texts = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        ["", "a", "b", "A", "é", "e\u0301", "日本", "😀", "a\0b", " a ", "x" * 300, 7, 7.0, True, math.nan]
    ),
)
vectors = st.one_of(st.none(), st.lists(st.floats(width=32), min_size=3, max_size=3))

VALUES: dict[str, st.SearchStrategy[Any]] = {"number": numbers, "a text": texts, "vector": vectors}


def refuse(row: int, problem: str) -> Exception:
    """For values that all do."""
    return AssertionError(f"row {row}: {problem}")


@st.composite
def tables(draw: st.DrawFn, min_rows: int = 0, max_rows: int = 12) -> dict[str, Array]:
    """Raw columns with rows of such values."""
    rows = draw(st.integers(min_rows, max_rows))
    return {
        name: raw_array(column, draw(st.lists(VALUES[name], min_size=rows, max_size=rows)), refuse)
        for name, column in RAW.items()
    }


@st.composite
def training_tables(draw: st.DrawFn) -> dict[str, Array]:
    """Rows of which something can be learned: a first one without anything missing."""
    table = draw(tables(min_rows=1))
    first = {"number": [draw(st.integers(-9, 9))], "a text": [draw(st.sampled_from("abc"))], "vector": [[1, 2, 3]]}
    for name, values in first.items():
        table[name][:1] = raw_array(RAW[name], values, refuse)
    return table


def declarations() -> st.SearchStrategy[list[Declaration]]:
    """Any kinds of columns."""
    boundaries = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, unique=True)
    buckets = st.one_of(
        st.builds(lambda count: bucketized("number", buckets=count), st.integers(2, 5)),
        st.builds(lambda found: bucketized("number", boundaries=tuple(sorted(found))), boundaries),
    )
    values = st.builds(
        lambda count, others: vocabulary("a text", max_values=count, other_buckets=others),
        st.integers(1, 9),
        st.integers(1, 4),
    )
    hashes = st.builds(lambda count: hashed("a text", buckets=count), st.integers(1, 2**31 - 1))
    ids = st.one_of(buckets, values, hashes)
    crosses = st.builds(
        lambda keys, count: crossed(*keys, buckets=count), st.lists(ids, min_size=2, max_size=3), st.integers(1, 200)
    )
    reals = st.sampled_from(
        [
            numeric("number"),
            numeric("number", scale="log"),
            *(numeric("vector", scale=s, shape=(3,)) for s in ("linear", "log")),
        ]
    )
    return st.lists(st.one_of(reals, ids, crosses), min_size=1, max_size=5)
