"""What a column probably is, judged by its values: a proposal that users see and may override."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from t2tdeploy.columns.declare import Declaration, numeric, vocabulary
from t2tdeploy.columns.values import Array

MANY_VALUES = 100
"""A vocabulary of more values leaves out those that only one row has."""

LARGEST_VOCABULARY = 10_000

MOST_CLASSES = 20
"""Whole numbers of at most so many values are classes, if nothing is said; others are quantities."""

_MOST_ROUNDING = 0.05  # of the spread of numbers, that float32 may take from them

_FEW_ROWS = 20  # of which it cannot be said that a column tells every row from the others


@dataclass(frozen=True)
class Proposal:
    """What a column is proposed to be.

    Args:
        declaration: None: it is left out.
        reason: in words, with what was seen.
    """

    declaration: Declaration | None
    reason: str


def infer_column(name: str, values: Array) -> Proposal:
    """The proposal for a column of numbers (NaN where missing) or texts (empty where missing)."""
    if values.dtype == object:
        return _infer_text(name, values)
    present = values[np.isfinite(values)]
    if not present.size:
        return Proposal(None, "it has no values")
    missing = _missing(len(values) - len(present))
    if present.min() == present.max():
        return Proposal(None, f"it is {present[0]:g} in every row{missing}")
    if _is_lost_in_float32(present):
        return Proposal(
            None,
            f"its numbers, from {present.min():.17g} to {present.max():.17g}, are too close for float32 to tell them "
            "apart: subtract the same from all, or say that they are a vocabulary",
        )
    if len(present) > _FEW_ROWS and (np.diff(values.astype(np.float64)) == 1).all():
        return Proposal(None, "it numbers the rows")
    return Proposal(numeric(name), f"numeric, from {present.min():g} to {present.max():g}{missing}")


def _is_lost_in_float32(values: Array) -> bool:
    with np.errstate(over="ignore"):  # infinite ones are missing
        rounded = values.astype(np.float32)
    kept = np.isfinite(rounded)
    values, rounded = values[kept].astype(np.float64), rounded[kept]
    return bool(np.std(rounded - values) > _MOST_ROUNDING * np.std(values)) if values.size else False


def _infer_text(name: str, values: Array) -> Proposal:
    counts = Counter(values.tolist())
    absent = counts.pop("", 0)
    missing, present, distinct = _missing(absent), len(values) - absent, len(counts)
    if not counts:
        return Proposal(None, "it has no values")
    if distinct == 1 and not absent:
        return Proposal(None, f"it is '{next(iter(counts))[:40]}' in every row")
    if present > _FEW_ROWS and distinct > present / 2:
        return Proposal(None, f"{distinct} of {present} texts are different: most rows have one of their own")
    min_count = 2 if distinct > MANY_VALUES else 1
    known = sum(count >= min_count for count in counts.values())
    rare = f", {distinct - known} of one row only" if known < distinct else ""
    limit = LARGEST_VOCABULARY if known > LARGEST_VOCABULARY else None
    return Proposal(
        vocabulary(name, min_count=min_count, max_values=limit), f"vocabulary, {distinct} values{rare}{missing}"
    )


def _missing(count: int) -> str:
    return f", {count} missing" if count else ""


def is_class(values: Array) -> bool:
    """Whether a target is a class rather than a quantity: text, or whole numbers of few values."""
    if values.dtype == object:
        return True
    present = values[np.isfinite(values)]
    return bool((present == np.rint(present)).all()) and len(np.unique(present)) <= MOST_CLASSES
