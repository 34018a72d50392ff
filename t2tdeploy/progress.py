"""How long work tells what it is doing, without knowing who listens: the command line passes a reporter that draws."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int = 1, **fields: Any) -> None:
        """`amount` more units are done; `fields` (loss=2.1, …) replace what is shown beside the bar."""


class Reporter(Protocol):
    """Where progress goes."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Task]:
        """A piece of work of `total` units (None: unknown), done when the context ends."""

    def message(self, text: str) -> None:
        """A line for people."""

    def event(self, name: str, **data: Any) -> None:
        """A fact for programs, and a line for people: `event("evaluation", step=100, loss=2.1)`."""


class _SilentTask:
    def advance(self, amount: int = 1, **fields: Any) -> None:
        pass


class SilentReporter:
    """Listens to nothing: the default of every function that reports."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Task]:
        yield _SilentTask()

    def message(self, text: str) -> None:
        pass

    def event(self, name: str, **data: Any) -> None:
        pass


class LoggingReporter(SilentReporter):
    """Tells messages and events to the logger "t2tdeploy", at level INFO: for programs, which decide what is shown."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("t2tdeploy")

    def message(self, text: str) -> None:
        self._logger.info("%s", text)

    def event(self, name: str, **data: Any) -> None:
        values = (f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in data.items())
        self._logger.info("%s %s", name, " ".join(values))
