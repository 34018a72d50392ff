"""How commands speak: bars on a terminal, plain lines elsewhere, JSON lines for programs.

Results go to standard output; progress, messages and errors to standard error. With `--json`, standard output holds one
JSON object per event and the result as the last line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2tdeploy.errors import T2TDeployError
from t2tdeploy.progress import Reporter, Task

INTERRUPTED = 130  # exit status; what shells give for SIGINT

_PLAIN_INTERVAL_SECONDS = 10.0


def make_reporter(as_json: bool) -> Reporter:
    """The reporter for where this process writes to."""
    if as_json:
        return _JsonReporter()
    return _TerminalReporter() if sys.stderr.isatty() else _PlainReporter()


def print_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """The outcome of a command: `name  value` lines, or one JSON object."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
        return
    width = max((len(name) for name in result), default=0)
    for name, value in result.items():
        print(f"{name:<{width}}  {_text(value)}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for people: the first column to the left, all others to the right, `-` for None."""
    cells = [list(columns), *(["-" if value is None else _text(value) for value in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    for row in cells:
        first, *others = row
        aligned = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"{first:<{widths[0]}}", *aligned]).rstrip())


def print_lines(lines: Sequence[str]) -> None:
    """What a table does not say, below it."""
    print("", *lines, "", sep="\n")


def print_written(file: Path, *, as_json: bool) -> None:
    """Says to people that a file was written, below the outcome that it shows."""
    if not as_json:
        print(f"written: {file}")


def print_error(error: T2TDeployError, *, as_json: bool) -> None:
    """`error:` and `help:` lines, or one JSON object, on standard error."""
    if as_json:
        print(json.dumps({"error": error.message, "help": error.help}, ensure_ascii=False), file=sys.stderr)
        return
    print(f"error: {error.message}", file=sys.stderr)
    if error.help:
        print(f"help: {error.help}", file=sys.stderr)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _sentence(name: str, data: Mapping[str, Any]) -> str:
    return "  ".join([name, *(f"{key} {_text(value)}" for key, value in data.items())])


class _PlainTask:
    """Writes a line at the end and every ten seconds in between."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done, self.fields = 0, dict[str, Any]()
        self.last = time.monotonic()

    def advance(self, amount: int = 1, **fields: Any) -> None:
        self.done += amount
        self.fields.update(fields)
        if time.monotonic() - self.last >= _PLAIN_INTERVAL_SECONDS:
            self.last = time.monotonic()
            self.line()

    def line(self) -> None:
        of = f"/{self.total}" if self.total is not None else ""
        print(_sentence(f"{self.description}  {self.done}{of} {self.unit}", self.fields), file=sys.stderr, flush=True)


class _PlainReporter:
    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Task]:
        task = _PlainTask(description, total, unit)
        yield task
        task.line()

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def event(self, name: str, **data: Any) -> None:
        self.message(_sentence(name, data))


class _JsonReporter(_PlainReporter):
    def event(self, name: str, **data: Any) -> None:
        print(json.dumps({"event": name, **data}, ensure_ascii=False), flush=True)


class _TerminalReporter:
    """Bars drawn by rich; lines are printed above them."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._open = 0

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Task]:
        identifier = self._progress.add_task(description, total=total, unit=unit, shown="")
        progress = self._progress

        class _Task:
            def advance(self, amount: int = 1, **fields: Any) -> None:
                shown = "  ".join(f"{name} {_text(value)}" for name, value in fields.items())
                if fields:
                    progress.update(identifier, shown=shown)
                progress.update(identifier, advance=amount)

        self._open += 1
        self._progress.start()
        try:
            yield _Task()
        finally:
            self._open -= 1
            self._progress.remove_task(identifier)
            if not self._open:
                self._progress.stop()

    def message(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def event(self, name: str, **data: Any) -> None:
        self.message(_sentence(name, data))
