"""Raw values of a table: what counts as a number, as a text, as missing. The same in training and at a server.

A missing number is NaN, a missing text is empty. None stands for both, as does a value that is not there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Fail = Callable[[int, str], Exception]
"""From the number of a row, from 0, and what is wrong with its value, the exception to raise."""

MISSING_NUMBERS = frozenset(("", "-", "?", "na", "n/a", "#n/a", "nan", "null", "none"))
"""What files write for a missing number, in lower case. Infinite numbers are missing as well."""

_TRUTHS = {"True": "true", "False": "false", "TRUE": "true", "FALSE": "false"}
_WHOLE_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)\.0+")


@dataclass(frozen=True)
class RawColumn:
    """A column as it comes: of a file, of a request.

    Args:
        kind: number: float32 [batch, *shape], NaN where it is missing; text: strings [batch], empty where missing.
        shape: of one value; () unless the column holds arrays of numbers.
        canonical: text: whether `as_category` reads it; otherwise `as_text` does.
    """

    name: str
    kind: Literal["number", "text"]
    shape: tuple[int, ...] = ()
    canonical: bool = False


Raw = Mapping[str, Array]
"""Raw columns by name: float32 [batch, *shape] or object [batch] of str."""


def raw_array(column: RawColumn, values: Sequence[Any] | Array, fail: Fail) -> Array:
    """The values of a column, a row each, in the form that fitted columns and graphs take them.

    Raises:
        Exception: what `fail` returned for the first value that does not do.
    """
    if column.kind == "text":
        found = np.empty(len(values), object)
        read = as_category if column.canonical else as_text
        found[:] = [_checked(read, value, row, fail) for row, value in enumerate(values)]
        return found
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb" and values.shape[1:] == column.shape:
        return _float32(values)
    if column.shape:
        return _arrays(column.shape, values, fail)
    return _float32(np.array([_checked(as_number, value, row, fail) for row, value in enumerate(values)], np.float64))


def as_number(value: Any) -> float:
    """The number of a value: a number, a truth value (0 or 1), or a text that shows one; NaN if it is missing.

    Raises:
        ValueError: it is none of these.
    """
    if type(value) is float:
        return value
    if value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in MISSING_NUMBERS:
            return math.nan
        if (truth := text.lower()) in ("true", "false"):
            return float(truth == "true")
        if "_" in text:  # Python would read it
            raise ValueError(f"{value!r:.60} is not a number")
        try:
            return float(text)
        except ValueError:
            hint = "; decimals are written with a point" if text.count(",") == 1 else ""
            raise ValueError(f"{value!r:.60} is not a number{hint}") from None
    if isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise ValueError(f"{value!r:.60} is {_kind(value)}, not a number")


def as_text(value: Any) -> str:
    """The text of a value: a text without white space around it, or a number as it is written; "" if it is missing.

    1.0 is written "1", for a column of integers of which some are missing is one of floats in many tools. A text ends
    at its first NUL, as it does in the interfaces of C.

    Raises:
        ValueError: it is neither text nor number, or holds characters that UTF-8 cannot encode.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{value!r:.60} has characters that UTF-8 cannot encode (lone surrogates)") from None
        return value.partition("\0")[0].strip()
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, np.floating) and not isinstance(value, float):
        value = float(str(value))  # 0.1, as it was written, of the float32 0.1
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(float(value))
    raise ValueError(f"{value!r:.60} is {_kind(value)}, not a text")


def as_category(value: Any) -> str:
    """`as_text`, where a text that shows a truth value or a whole number is what a program would send as one.

    "True" is "true", as True is, and "2.0" is "2", as 2.0 is: models learn from files of text and are asked in JSON.
    Other texts stay as they are, such as "1.50", which may be the number of a version, and "007".

    Raises:
        ValueError: see `as_text`.
    """
    text = as_text(value)
    if _WHOLE_DECIMAL.fullmatch(text):
        whole = text.partition(".")[0]
        return "0" if whole == "-0" else whole
    return _TRUTHS.get(text, text)


def _checked(convert: Callable[[Any], Any], value: Any, row: int, fail: Fail) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise fail(row, str(error)) from None


def _arrays(shape: tuple[int, ...], values: Sequence[Any] | Array, fail: Fail) -> Array:
    found = np.empty((len(values), *shape), np.float64)
    for row, value in enumerate(values):
        try:
            array = np.full(shape, np.nan) if value is None else np.array(value, np.float64)
        except (ValueError, TypeError):
            raise fail(row, f"{value!r:.60} is not an array of numbers") from None
        if array.shape != shape:
            raise fail(row, f"it has shape {list(array.shape)} instead of {list(shape)}")
        found[row] = array
    return _float32(found)


def _float32(values: Array) -> Array:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is missing
        return values.astype(np.float32)


def _kind(value: Any) -> str:
    kinds: dict[type[Any], str] = {dict: "an object", list: "a list", tuple: "a list", bytes: "bytes"}
    return kinds.get(type(value)) or f"a {type(value).__name__}"
