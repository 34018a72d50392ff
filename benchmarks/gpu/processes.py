"""What the sections share: their state, and child processes that end in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class CouldNotRunError(Exception):
    """Something could not run; the message is the reason, in a line."""


@dataclass
class Section:
    """One section while it runs.

    Attributes:
        variables: environment variables of its processes, beside this one's.
        deadline: on time.monotonic().
        rows: what it found; kept when the section fails later.
    """

    variables: dict[str, str]
    deadline: float
    reduced: bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        """Until the deadline.

        Raises:
            CouldNotRunError: there are none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise CouldNotRunError("the section's time was over")
        return left


def run_python(
    arguments: Sequence[str | Path], *, variables: dict[str, str], seconds: float, statuses: Sequence[int] = (0,)
) -> str:
    """Runs this Python with `arguments` in the root of the checkout; returns its standard output.

    Raises:
        CouldNotRunError: it took longer than `seconds` (then it is killed, with all that it started), or ended with
            none of `statuses`.
    """
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CouldNotRunError(f"not done within {seconds:.0f} s") from None
        raise
    if process.returncode not in statuses:
        raise CouldNotRunError(f"exit status {process.returncode}: {_last_words(errors or output)}")
    return output


def _last_words(text: str) -> str:
    """The error in the last line of t2tdeploy's output, or the last line as it is."""
    last = (text.strip().splitlines() or ["it wrote nothing"])[-1].strip()
    try:
        said = json.loads(last)
        return f"{said['error']} (help: {said['help']})" if said.get("help") else str(said["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return last[:400]
