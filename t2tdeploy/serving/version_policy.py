"""Which versions of a model are served."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served.

    Args:
        newest: so many of the newest that can be loaded; None: no bound.
        numbers: only these; None: all.
    """

    newest: int | None
    numbers: frozenset[int] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "latest", "latest:2", "all", or numbers "1+3".

        Raises:
            ValueError: it is none of these.
        """
        kind, _, count = text.partition(":")
        if text == "all":
            return cls(None)
        if kind == "latest" and (not count or (count.isdecimal() and int(count) > 0)):
            return cls(int(count or 1))
        numbers = text.split("+")
        if all(number.isdecimal() and int(number) > 0 for number in numbers):
            return cls(None, frozenset(map(int, numbers)))
        raise ValueError("it is not latest, latest:N, all, or numbers like 1+3")

    def candidates(self, numbers: Iterable[int]) -> list[int]:
        """Of the versions on disk those that may be served, newest first."""
        return sorted((one for one in numbers if self.numbers is None or one in self.numbers), reverse=True)

    def wanted(self, numbers: Iterable[int], served: Container[int]) -> list[int]:
        """Of the candidates those that should be served, and instead of which others are: down to the last that is
        needed while only `served` can be loaded."""
        found, kept = [], 0
        for number in self.candidates(numbers):
            if kept == self.newest:
                break
            found.append(number)
            kept += number in served
        return found
