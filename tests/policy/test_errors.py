"""The exception tree drawn in errors.py is the one the code makes."""

from __future__ import annotations

import inspect
import re

from t2tdeploy import errors
from t2tdeploy.errors import T2TDeployError


def drawn_tree() -> dict[str, str | None]:
    """Class -> parent, as the module's docstring draws it."""
    found: dict[str, str | None] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<branch>[│├└─ ]*)(?P<name>\w+Error)\b", line)
        if match:
            depth = len(match["branch"]) // 4
            above[depth:] = [match["name"]]
            found[match["name"]] = above[depth - 1] if depth else None
    return found


def classes() -> dict[str, type[T2TDeployError]]:
    members = inspect.getmembers(errors, inspect.isclass)
    return {name: found for name, found in members if issubclass(found, T2TDeployError)}


def test_the_tree_is_drawn_as_it_is() -> None:
    parents = {name: found.__base__.__name__ for name, found in classes().items() if found.__base__}
    assert drawn_tree() == {**parents, "T2TDeployError": None}


def test_every_class_says_what_it_means() -> None:
    silent = [name for name, found in classes().items() if not vars(found).get("__doc__")]
    assert not silent


def test_exit_codes_are_those_of_the_tree() -> None:
    for name, found in classes().items():
        assert found.exit_code == (2 if issubclass(found, errors.UserError) else 1), name
