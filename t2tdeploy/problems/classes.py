"""Names of classes: their order, and how messages show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from t2tdeploy.errors import nearest

_SHOWN = 20


def in_class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Classes found in data, in the order of their ids: numbers by their value, before names: -1, 9, 10, a, b."""
    return tuple(sorted(names, key=_by_number_or_name))


def shown_classes(classes: Sequence[str]) -> str:
    """Their names for a message, the first ones if they are many."""
    more = f", … ({len(classes)} in all)" if len(classes) > _SHOWN else ""
    return ", ".join(classes[:_SHOWN]) + more


def is_no_class(classes: Sequence[str], name: str) -> str:
    """What is wrong with `name`, to stand behind it: "is no class", the nearest one, and those that there are."""
    close = nearest(name, classes)
    hint = f" (did you mean '{close}'?)" if close else ""
    return f"is no class{hint}; classes: {shown_classes(classes)}"


def _by_number_or_name(name: str) -> tuple[bool, float, str]:
    try:
        value = float(name)
    except ValueError:
        return True, 0.0, name
    return (False, value, name) if math.isfinite(value) else (True, 0.0, name)
