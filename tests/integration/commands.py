"""Runs the real commands as a user does: a process of their own, exit code, what they print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def result(self) -> Any:
        """The last JSON line."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def arguments(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "t2tdeploy", *map(str, words)]


def t2tdeploy(*words: str | Path, stdin: str | bytes = b"", cwd: Path | None = None) -> Outcome:
    content = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        arguments(*words), input=content, capture_output=True, env=ENVIRONMENT, cwd=cwd, timeout=240, check=False
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def succeed(*words: str | Path, stdin: str | bytes = b"", cwd: Path | None = None) -> Outcome:
    outcome = t2tdeploy(*words, stdin=stdin, cwd=cwd)
    assert outcome.status == 0, outcome.stderr
    return outcome


def fail(*words: str | Path, stdin: str | bytes = b"") -> Outcome:
    """Runs a command that must end in an error of ours: never a traceback."""
    outcome = t2tdeploy(*words, stdin=stdin)
    assert outcome.status in (1, 2), (outcome.status, outcome.stdout, outcome.stderr)
    assert "Traceback" not in outcome.stderr
    assert "error: " in outcome.stderr
    return outcome


@contextmanager
def running_server(bundle: Path) -> Iterator[int]:
    """A served bundle; yields the port, then asks it to stop and checks that it does."""
    process = subprocess.Popen(
        arguments("serve", "--bundle", bundle, "--port", "0", "--threads", "1", "--json"),
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        events = (json.loads(line) for line in process.stdout)
        yield next(int(event["port"]) for event in events if event["event"] == "serving")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
