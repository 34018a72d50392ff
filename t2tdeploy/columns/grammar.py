"""Columns as they are declared in options, on a command line:

    age:numeric    income:log    age:bucketized:10    age:bucketized:18|65    city:vocabulary    zip:hashed:1000
    sex*city:crossed:500    id:ignored

Behind the column and its kind may stand a value of its own, then options: `city:vocabulary:min_count=5:embedding=8`.
Ids enter a model as an embedding of that width, or with `:indicator` as a 1 among 0s.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from t2tdeploy.columns.declare import (
    Categorical,
    Declaration,
    bucketized,
    crossed,
    hashed,
    numeric,
    vocabulary,
)
from t2tdeploy.errors import InputError, nearest

IGNORED = "ignored"
KINDS = ("numeric", "log", "bucketized", "vocabulary", "hashed", "crossed", IGNORED)

_FORM = "NAME:KIND, NAME:KIND:VALUE or NAME:KIND:option=value"
_VOCABULARY_OPTIONS = ("min_count", "max_values", "other_buckets")


def parse_columns(texts: tuple[str, ...]) -> tuple[list[Declaration], set[str]]:
    """The declared columns, and the names of those to ignore.

    Raises:
        InputError: a text is not of the grammar above.
    """
    declarations, ignored = [], set()
    for text in texts:
        name, kind, arguments = _split(text)
        if kind != IGNORED:
            declarations.append(_declare(text, name, kind, arguments))
        elif arguments:
            raise _fault(text, f"{IGNORED} takes no value")
        else:
            ignored.add(name)
    return declarations, ignored


def _split(text: str) -> tuple[str, str, list[str]]:
    """Column, kind, what follows. A column's name may have colons in it."""
    match = re.fullmatch(rf"(?P<name>.+?)\s*:\s*(?P<kind>{'|'.join(KINDS)})\s*(?::(?P<rest>.*))?", text.strip())
    if match is None:
        kind = text.rpartition(":")[2].strip() if ":" in text else ""
        close = nearest(kind, KINDS)
        hint = f"; did you mean '{close}'?" if close else ""
        raise _fault(text, f"kinds are {', '.join(KINDS)}{hint}")
    rest = match["rest"]
    return match["name"].strip(), match["kind"], [] if rest is None else [part.strip() for part in rest.split(":")]


def _declare(text: str, name: str, kind: str, arguments: list[str]) -> Declaration:
    value = arguments.pop(0) if arguments and "=" not in arguments[0] and arguments[0] != "indicator" else None
    makers: dict[str, Callable[[], Declaration]] = {
        "numeric": lambda: numeric(name),
        "log": lambda: numeric(name, scale="log"),
        "bucketized": lambda: _bucketized(text, name, value),
        "vocabulary": lambda: vocabulary(name),
        "hashed": lambda: hashed(name) if value is None else hashed(name, buckets=_integer(text, value)),
        "crossed": lambda: _crossed(text, name, value),
    }
    if value is not None and kind in ("numeric", "log", "vocabulary"):
        raise _fault(text, f"{kind} takes no value")
    declaration = makers[kind]()
    for argument in arguments:
        declaration = _with_option(text, declaration, kind, argument)
    return declaration


def _bucketized(text: str, name: str, value: str | None) -> Declaration:
    if value is None:
        return bucketized(name)
    if value.isdecimal():
        return bucketized(name, buckets=int(value))
    try:
        return bucketized(name, boundaries=tuple(float(part) for part in value.split("|")))
    except ValueError:
        raise _fault(text, f"'{value}' is neither a number of buckets nor boundaries such as 18|65") from None


def _crossed(text: str, name: str, value: str | None) -> Declaration:
    keys = [key.strip() for key in name.split("*")]
    if len(keys) < 2 or not all(keys):
        raise _fault(text, "a cross names its columns with * between them: sex*city:crossed:500")
    return crossed(*keys) if value is None else crossed(*keys, buckets=_integer(text, value))


def _with_option(text: str, declaration: Declaration, kind: str, argument: str) -> Declaration:
    option, _, value = argument.partition("=")
    options = {
        **({"indicator": 0, "embedding": None} if isinstance(declaration, Categorical) else {}),
        **(dict.fromkeys(_VOCABULARY_OPTIONS) if kind == "vocabulary" else {}),
    }
    if option not in options or (option == "indicator") != (value == ""):
        raise _fault(text, f"'{argument}' is no option of {kind}; valid ones: {', '.join(options) or 'none'}")
    changes: dict[str, Any] = {"embedding": 0} if option == "indicator" else {option: _integer(text, value)}
    return replace(declaration, **changes)


def _integer(text: str, value: str) -> int:
    if not value.isdecimal():
        raise _fault(text, f"'{value}' is not a whole number")
    return int(value)


def _fault(text: str, problem: str) -> InputError:
    return InputError(f"column '{text}': {problem}", help=f"columns are declared as {_FORM}")
