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
_LONG = re.compile(r"[+-]?\d{16,}")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)  # its decimals behind a point or comma
_LEAST_NUMBERS = 0.95  # share of a column's values that makes it one of numbers, some of them written wrong
_ON_TARGETS = (
    "for a number to come close to, say task=regress (with faulty_rows=skip, rows without one are left out); "
    "say task=classify if they are classes"
)
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
        InputError: it is text of too many kinds to be classes, or nearly all of it are numbers.
    """
    values = _as_they_look(rows.columns[target])
    if values.dtype != object:
        return not is_class(values)
    _require_plain_numbers(rows, target, values, _ON_TARGETS, may_be_classes=True)
    kinds = len({value for value in values.tolist() if value})
    if kinds > max(MOST_CLASSES, len(rows) // 2):
        raise InputError(
            f"{rows.place}, column '{target}': {kinds} different texts in {len(rows)} rows are too many to be classes"
            f"{_first_that_is_no_number(rows, values)}",
            help=_ON_TARGETS,
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
        InputError: a declaration is faulty, or names a column that is not there; nearly all of an undeclared column
            are numbers.
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
            _require_plain_numbers(rows, name, looks, f"say columns=[{name}:vocabulary] if they are no numbers")
        proposal = infer_column(name, looks)
        if proposal.declaration is None:
            reporter.message(f"  {name}: ignored, {proposal.reason}")
        else:
            reporter.message(f"  {name}: {proposal.reason}")
            found.append(proposal.declaration)
    return resolve(found)  # crosses may name columns that nobody declared


def _require_plain_numbers(
    rows: Rows, name: str, texts: Array, otherwise: str, *, may_be_classes: bool = False
) -> None:
    """
    Args:
        otherwise: what else can be done.
        may_be_classes: words among whole numbers of few values are right.

    Raises:
        InputError: nearly all of the texts are numbers, and some have a comma, or are none (with the first of these).
    """
    present = [(row, text) for row, text in enumerate(texts.tolist()) if text.lower() not in MISSING_NUMBERS]
    numbers = [text for _, text in present if _NUMBER.fullmatch(text)]
    commas = [(row, text) for row, text in present if "," in text and _NUMBER.fullmatch(text)]
    if len(numbers) < _LEAST_NUMBERS * len(present) or any(_is_code(text) for text in numbers):
        return
    where = f"{rows.place}, row {{}}, column '{name}': "
    if commas:
        row, text = commas[0]
        raise InputError(
            f"{where.format(rows.number(row))}'{text}' is a number with a comma, as are {len(commas)} of its "
            f"{len(present)} values",
            help=f"write decimals with a point, and nothing between thousands; {otherwise}",
        )
    words = [(row, text) for row, text in present if not _NUMBER.fullmatch(text)]
    if words and not (may_be_classes and is_class(np.array(numbers, np.float64))):
        row, text = words[0]
        raise InputError(
            f"{where.format(rows.number(row))}'{text[:60]}' is not a number, as {len(numbers)} of its {len(present)} "
            "values are",
            help=f"correct it, or leave it empty if it is not known; {otherwise}",
        )


def _is_code(text: str) -> bool:
    """Whether a text of digits is none to compute with: 007, or one that floats do not tell from the next."""
    return _CODE.match(text) is not None or (_LONG.fullmatch(text) is not None and abs(int(text)) > 2**53)


def _as_they_look(values: object) -> Array:
    """Numbers if all are, but for codes such as 007: that its zeros were written means that they tell something. So do
    the last digits of long ones."""
    array = np.asarray(values)
    if array.dtype == object and any(_is_code(value) for value in array):
        return array
    numbers = as_numbers(array)
    return array if numbers is None else numbers
