"""A request whose rows wait for workers, and those rows."""

from __future__ import annotations

import asyncio
from typing import Generic, NamedTuple

from t2tdeploy.serving.work import Result, Row


class WaitingRequest(Generic[Result]):
    """What a request still waits for. One future for all its rows: one for each would cost the event loop more than
    a small model costs.

    Args:
        count: its rows.
        ended: gets their results in order, or the error of the first that failed; cancelled when nobody waits.

    Attributes:
        started: when a worker took the first of its rows.
    """

    def __init__(self, count: int, ended: asyncio.Future[list[Result]]) -> None:
        self.ended = ended
        self.started: float | None = None
        self._count = count
        self._results: dict[int, Result] = {}

    def start(self, now: float) -> None:
        """A worker took one of its rows."""
        if self.started is None:
            self.started = now

    def answer(self, place: int, result: Result) -> None:
        """Takes the result of a row; once it has ended, nobody wants it."""
        self._results[place] = result
        if len(self._results) == self._count and not self.ended.done():
            self.ended.set_result([self._results[place] for place in range(self._count)])


class WaitingRow(NamedTuple, Generic[Row, Result]):
    """A row, and its place among those of its request."""

    row: Row
    request: WaitingRequest[Result]
    place: int

    @property
    def unwanted(self) -> bool:
        """Whether its request has ended."""
        return self.request.ended.done()
