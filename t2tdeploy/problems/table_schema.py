"""What the columns of a user's table are: declared in options, or as they look. Every decision is told."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from t2tdeploy.columns.declare import Declaration
from t2tdeploy.columns.fit import resolve
from t2tdeploy.columns.grammar import parse_columns
from t2tdeploy.columns.infer import MOST_CLASSES, infer_column, is_class
from t2tdeploy.columns.values import MISSING_NUMBERS, Array, as_number
from t2tdeploy.errors import InputError, nearest
from t2tdeploy.problems.rows import Rows, as_numbers
from t2tdeploy.progress import Reporter

_CODE = re.compile(r"0\d")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)  # its decimals behind a point or comma
_LEAST_NUMBERS = 0.95  # share of a column's values that makes it one of numbers, some of them written wrong
_USUAL_TARGETS = ("target", "label", "class")


def find_target(rows: Rows, wanted: str | None) -> str:
    """The column to predict: `wanted`, or one with a usual name.

    Raises:
        InputError: there is none.
    """
    if wanted is None:
        wanted = next((name for name in _USUAL_TARGETS if name in rows.columns), None)
    if wanted is None:
        raise InputError(
            f"which column of {rows.place} is to be predicted? Its columns: {', '.join(rows.columns)}",
            help="set target=NAME",
        )
    require_column(rows, wanted)
    return wanted


def require_column(rows: Rows, name: str) -> None:
    """
    Raises:
        InputError: `rows` has no column `name`.
    """
    if name not in rows.columns:
        close = nearest(name, rows.columns)
        raise InputError(
            f"{rows.place} has no column '{name}'; its columns: {', '.join(rows.columns) or 'none'}",
            help=f"did you mean '{close}'?" if close else None,
        )


def looks_like_quantity(rows: Rows, target: str) -> bool:
    """Whether a target looks like a number to come close to, rather than a class.

    Raises:
        InputError: it is text of too many kinds to be classes, as numbers are of which one is written wrong.
    """
    values = _as_they_look(rows.columns[target])
    if values.dtype != object:
        return not is_class(values)
    kinds = len({value for value in values.tolist() if value})
    if kinds > max(MOST_CLASSES, len(rows) // 2):
        raise InputError(
            f"{rows.place}, column '{target}': {kinds} different texts in {len(rows)} rows are too many to be classes"
            f"{_first_that_is_no_number(rows, values)}",
            help="for a number to come close to, say task=regress (with faulty_rows=skip, rows without one are left "
            "out); say task=classify if they are classes",
        )
    return False


def _first_that_is_no_number(rows: Rows, texts: Array) -> str:
    for row, text in enumerate(texts.tolist()):
        try:
            as_number(text)
        except ValueError as error:
            return f"; row {rows.number(row)}: {error}"
    return ""


def find_columns(
    rows: Rows, target: str, declared: tuple[str, ...], unusable: Mapping[str, str], *, infer: bool, reporter: Reporter
) -> list[Declaration]:
    """The declared columns, then the others as they look.

    Args:
        declared: see `columns.grammar`.
        unusable: columns that were left out of `rows`, with their type.
        infer: whether columns that are not declared are used.

    Raises:
        InputError: a declaration is faulty, or names a column that is not there; an undeclared column holds numbers
            with a comma.
    """
    found, ignored = parse_columns(declared)
    named = {*ignored, *(raw.name for column in found for raw in column.raw)} - set(unusable)
    for name in sorted(named):
        require_column(rows, name)
    for column in found:
        reporter.message(f"  {column.name}: {type(column).__name__.lower()}, as declared")
    for name, kind in unusable.items():
        reporter.message(f"  {name}: ignored, it is {kind}, neither numbers nor text")
    for name, values in rows.columns.items():
        if name in named or name == target or not infer:
            continue
        looks = _as_they_look(values)
        if looks.dtype == object:
            _require_no_commas(rows, name, looks)
        proposal = infer_column(name, looks)
        if proposal.declaration is None:
            reporter.message(f"  {name}: ignored, {proposal.reason}")
        else:
            reporter.message(f"  {name}: {proposal.reason}")
            found.append(proposal.declaration)
    return resolve(found)  # crosses may name columns that nobody declared


def _require_no_commas(rows: Rows, name: str, texts: Array) -> None:
    """
    Raises:
        InputError: nearly all of the texts are numbers, and some have a comma (with the first of these).
    """
    present = [(row, text) for row, text in enumerate(texts.tolist()) if text.lower() not in MISSING_NUMBERS]
    numbers = [(row, text) for row, text in present if _NUMBER.fullmatch(text)]
    commas = [(row, text) for row, text in numbers if "," in text]
    if commas and len(numbers) >= _LEAST_NUMBERS * len(present):
        row, text = commas[0]
        raise InputError(
            f"{rows.place}, row {rows.number(row)}, column '{name}': '{text}' is a number with a comma, as are "
            f"{len(commas)} of its {len(present)} values",
            help="write decimals with a point, and nothing between thousands; or, if they are no numbers, say "
            f"columns=[{name}:vocabulary]",
        )


def _as_they_look(values: object) -> Array:
    """Numbers if all are, but for codes such as 007: that its zeros were written means that they tell something."""
    array = np.asarray(values)
    if array.dtype == object and any(_CODE.match(value) for value in array):
        return array
    numbers = as_numbers(array)
    return array if numbers is None else numbers
