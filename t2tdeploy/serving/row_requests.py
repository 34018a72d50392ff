"""Requests of rows, which are sentences or examples: a long list in several, and one that is too large in halves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

LARGEST_BYTES = 2 * 2**20
"""Of the rows of a request that has several: half of what a server takes by default."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Request(Generic[M]):
    """One request of a call.

    Args:
        first: index of its first row in the call.
        rows: what errors call the rows.
        fields: of the message, that have a value for each row or none.
    """

    first: int
    message: M
    rows: str
    fields: tuple[str, ...]

    @property
    def count(self) -> int:
        """Rows that it has."""
        return max(len(getattr(self.message, name)) for name in self.fields)

    @property
    def only_row(self) -> str:
        """What errors call its row; empty: it has several."""
        return f"{self.rows}[{self.first}]" if self.count == 1 else ""

    def cut(self, most: int) -> Iterator[Request[M]]:
        """The same in requests of at most `most` rows and, where one has several, about LARGEST_BYTES."""
        sizes, first, taken = self._sizes(), 0, 0
        for place, size in enumerate(sizes):
            if place > first and (place - first == most or taken + size > LARGEST_BYTES):
                yield self._part(first, place)
                first, taken = place, 0
            taken += size
        if sizes:
            yield self._part(first, len(sizes))

    def halves(self) -> list[Request[M]]:
        """The same in two requests; none: it has one row."""
        count = self.count
        return [self._part(*ends) for ends in pairwise((0, count // 2, count))] if count > 1 else []

    def _sizes(self) -> list[int]:
        """Bytes of each row."""
        sizes = [0] * self.count
        for name in self.fields:
            for place, value in enumerate(getattr(self.message, name)):
                sizes[place] += _size(value)
        return sizes

    def _part(self, first: int, end: int) -> Request[M]:
        message = type(self.message)()
        for field, value in self.message.ListFields():
            if field.name in self.fields:
                getattr(message, field.name).extend(value[first:end])
            elif isinstance(value, Message):
                getattr(message, field.name).CopyFrom(value)
            else:
                setattr(message, field.name, value)
        return Request(self.first + first, message, self.rows, self.fields)


def _size(value: Any) -> int:
    if isinstance(value, Message):
        return value.ByteSize()
    return len(value.encode() if isinstance(value, str) else value)
