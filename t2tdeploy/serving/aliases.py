"""The other names that models have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from t2tdeploy.errors import InputError, UnknownNameError


@dataclass(frozen=True)
class Alias:
    """Another name of a model.

    Args:
        number: of the version it stays at; None: the newest.
    """

    name: str
    model: str
    number: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "production=ende" or "production=ende:2".

        Raises:
            ValueError: it is neither.
        """
        name, _, target = text.partition("=")
        model, _, number = target.partition(":")
        if not name or not model or (":" in target and not (number.isdecimal() and int(number) > 0)):
            raise ValueError("an alias is written name=model or name=model:version")
        return cls(name, model, int(number) if number else None)


class Aliases:
    """All aliases of a server, by name."""

    def __init__(self, aliases: Mapping[str, Alias]) -> None:
        self._aliases = aliases

    @property
    def names(self) -> Iterable[str]:
        """Of the aliases."""
        return self._aliases.keys()

    def require_targets(self, versions: Collection[tuple[str, int]]) -> None:
        """
        Args:
            versions: names and numbers of what is there; number 0: a model whose versions cannot be told now.

        Raises:
            InputError: an alias is the name of a model.
            UnknownNameError: one names a model or a version that is not there.
        """
        models = {name for name, _ in versions}
        for alias in self._aliases.values():
            if alias.name in models:
                raise InputError(f"the alias '{alias.name}' is the name of a model", help="choose another")
            if alias.model not in models:
                raise UnknownNameError(f"model of the alias '{alias.name}'", alias.model, models)
            numbers = {number for name, number in versions if name == alias.model}
            if alias.number is not None and not numbers & {0, alias.number}:
                target, choices = f"{alias.model}:{alias.number}", (f"{alias.model}:{one}" for one in numbers)
                raise UnknownNameError(f"version of the alias '{alias.name}'", target, choices)

    def pinned(self, model: str) -> frozenset[int]:
        """The versions of a model that aliases stay at."""
        return frozenset(one.number for one in self._aliases.values() if one.model == model and one.number is not None)

    def resolve(self, name: str, version: str) -> tuple[str, str]:
        """The model and the version that a request means; empty: it leaves that open."""
        alias = self._aliases.get(name)
        if alias is None:
            return name, version
        return alias.model, version or str(alias.number or "")
