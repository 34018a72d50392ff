"""A Python script that answers commands from a process of its own: what is compared shares neither malloc nor threads.

The script gets a job as JSON in its argument, a command per line on standard input, and writes one JSON object for each
to standard output; its first one says that it is ready. {"failed": REASON} in place of any of them ends it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO


class WorkerError(Exception):
    """A worker could not do it; the message is its reason, in a line."""


class WorkerProcess:
    """The process; it ends with the `with` block.

    Args:
        environment: variables set beside this process's own.
        seconds: after so many it is killed, unless the limit is lifted.
    """

    def __init__(
        self,
        script: Path,
        job: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        seconds: float = 3600.0,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as this object
        self._overdue = False
        self._seconds = seconds
        self._process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # torch.compile starts processes, which shall end with it
        )
        self._timer = threading.Timer(seconds, self._kill_overdue)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._kill()
        self._process.wait()
        self._errors.close()

    def lift_limit(self) -> None:
        """It was in time."""
        self._timer.cancel()

    def wait_until_ready(self) -> dict[str, Any]:
        """Its first answer."""
        return self._answer()

    def ask(self, *words: str) -> dict[str, Any]:
        """Its answer to a command.

        Raises:
            WorkerError: it said that it failed, or ended.
        """
        assert self._process.stdin is not None
        try:
            print(*words, file=self._process.stdin, flush=True)
        except OSError:
            raise WorkerError(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": self._last_words()}
        if "failed" in answer:
            raise WorkerError(answer["failed"])
        return answer

    def _last_words(self) -> str:
        if self._overdue:
            return f"not done within {self._seconds:.0f} s"
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with status {status}: {lines[-1].strip()[:400] if lines else 'it wrote nothing'}"

    def _kill_overdue(self) -> None:
        self._overdue = True
        self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def answers() -> TextIO:
    """In the script: standard output, from now on for answers alone. What libraries print goes to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream
