"""What counts as a number, as a text, as missing; and what does not do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.columns.values import RawColumn, as_category, as_number, as_text, raw_array
from t2tdeploy.errors import InputError


@pytest.mark.parametrize("value", [None, "", " ", "NA", "n/a", "NaN", "null", "?", "-", math.nan, np.float32("nan")])
def test_a_missing_number_is_nan(value: Any) -> None:
    assert math.isnan(as_number(value))


@pytest.mark.parametrize(("value", "number"), [(True, 1), (np.False_, 0), ("true", 1), (" False ", 0)])
def test_a_truth_value_is_0_or_1_written_or_sent(value: Any, number: float) -> None:
    assert as_number(value) == number


@given(st.floats(allow_nan=False) | st.integers(-(10**6), 10**6))
def test_a_number_and_its_text_are_the_same_number(number: float) -> None:
    assert as_number(number) == as_number(f" {number!r} ") == float(number)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("abc", "'abc' is not a number"),
        ("1_000", "'1_000' is not a number"),
        ("3,5", "'3,5' is not a number; decimals are written with a point"),
        ([1], "[1] is a list, not a number"),
        ({"a": 1}, "{'a': 1} is an object, not a number"),
    ],
)
def test_what_is_no_number_is_refused(value: Any, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        as_number(value)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (math.nan, ""),
        (" a ", "a"),
        (7, "7"),
        (7.0, "7"),
        (0.5, "0.5"),
        (np.float32(0.1), "0.1"),
        (True, "true"),
        ("a\0b", "a"),
    ],
)
def test_texts(value: Any, text: str) -> None:
    assert as_text(value) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(width=16, allow_nan=False))
def test_a_short_float_is_the_number_that_was_written(value: float) -> None:
    """What a model learned from float32 is asked for in JSON."""
    for kind in (np.float32, np.float16):
        with np.errstate(over="ignore"):
            written = kind(value)
        assert as_text(written) == as_text(float(str(written)))


@given(st.booleans() | st.integers() | st.integers(-(2**53), 2**53).map(float))
def test_a_category_is_the_same_written_and_sent(value: bool | float) -> None:
    sent = as_category(value)
    assert sent == as_text(value)
    assert as_category(f" {value}") == sent  # as Python and pandas write it
    assert as_category(sent) == sent


@pytest.mark.parametrize(
    "value", ["1.10", "1.50", "007", "007.0", "1.0.0", "-", ".0", "yes", "tRUE", "1,000.0", "1.0 kg"]
)
def test_other_texts_stay_as_they_are(value: str) -> None:
    assert as_category(value) == value


@pytest.mark.parametrize(("value", "text"), [("-0.0", "0"), ("2.000", "2"), ("-3.0", "-3"), ("TRUE", "true")])
def test_spellings_of_categories(value: str, text: str) -> None:
    assert as_category(value) == text


@pytest.mark.parametrize(("value", "problem"), [(b"a", "is bytes"), ([1], "is a list"), ("\ud800", "lone surrogates")])
def test_what_is_no_text_is_refused(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        as_text(value)


def test_a_fault_has_the_number_of_its_row() -> None:
    def fail(row: int, problem: str) -> InputError:
        return InputError(f"row {row}: {problem}")

    for column, values, message in (
        (RawColumn("a", "number"), [1, "x"], "row 1: 'x' is not a number"),
        (RawColumn("a", "text"), ["x", "y", {}], "row 2: {} is an object, not a text"),
        (RawColumn("a", "number", (2,)), [[1, 2], [1]], "row 1: it has shape [1] instead of [2]"),
        (RawColumn("a", "number", (2,)), [["p", "q"]], "row 0: ['p', 'q'] is not an array of numbers"),
    ):
        with pytest.raises(InputError) as caught:
            raw_array(column, values, fail)
        assert str(caught.value) == message


def test_arrays_of_numbers_are_taken_as_they_are() -> None:
    def fail(row: int, problem: str) -> Exception:
        raise AssertionError(problem)

    for dtype in (np.int64, np.float64, np.float32, np.bool_):
        found = raw_array(RawColumn("a", "number", (2,)), np.array([[1, 0]], dtype), fail)
        assert found.dtype == np.float32
        assert found.tolist() == [[1, 0]]
