"""A server in a process of its own, as an operator runs it: started, watched, stopped."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from t2tdeploy.runtime import available_cpus

READY_SECONDS = 120.0
STOP_SECONDS = 60.0


class ServerProcess:
    """A command that writes JSON lines, one of which is {"event": "serving", "port": …}. Ends with the `with` block."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as this object
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self.events: list[dict[str, Any]] = []
        self._arrived: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._watched = psutil.Process(self.process.pid)
        self.port = 0
        self.serving: dict[str, Any] = {}
        self._asked = False

    def __enter__(self) -> Self:
        self.serving = self.wait_for("serving", READY_SECONDS)
        self.port = int(self.serving["port"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self._family(), self._watched]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        self._reader.join(timeout=10)
        self._errors.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def wait_for(self, event: str, seconds: float) -> dict[str, Any]:
        """The next event of that name.

        Raises:
            RuntimeError: it ended or is silent.
        """
        while True:
            try:
                found = self._arrived.get(timeout=seconds)
            except queue.Empty:
                raise RuntimeError(f"no event '{event}' within {seconds:.0f} s: {self.log[-2000:]}") from None
            if found is None:
                raise RuntimeError(f"the server ended with status {self.process.wait()}: {self.log[-2000:]}")
            if found["event"] == event:
                return found

    def resident_bytes(self) -> int:
        """Memory in RAM of the process and its children."""
        return sum(one.memory_info().rss for one in [self._watched, *self._family()])

    def cpu_seconds(self) -> float:
        """Used so far by the process and its children."""
        times = [one.cpu_times() for one in [self._watched, *self._family()]]
        return sum(one.user + one.system for one in times)

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self._asked = True
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> tuple[int, dict[str, Any]]:
        """SIGTERM, unless that was sent. Its exit status and its event `stopped`."""
        if not self._asked:
            self.ask_to_stop()
        stopped = self.wait_for("stopped", STOP_SECONDS)
        return self.process.wait(timeout=STOP_SECONDS), stopped

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return self._watched.children(recursive=True)
        return []

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with suppress(json.JSONDecodeError):
                    event = json.loads(line)
                    if isinstance(event, dict) and "event" in event:
                        self.events.append(event)
                        self._arrived.put(event)
        self._arrived.put(None)


@contextmanager
def standing_still(servers: Iterable[ServerProcess]) -> Iterator[None]:
    """Within it they do nothing. An idle server that polls for work would take CPU from the one that is measured."""
    paused = list(servers)
    for server in paused:
        os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in paused:
            os.killpg(server.process.pid, signal.SIGCONT)


def serve_command(bundle: Path, *, threads: int | None = None, **options: Any) -> list[str | Path]:
    """`t2tdeploy serve` on a free port; `options` are those of the server. As many threads as there are CPUs is what it
    takes by itself, for lone batches."""
    if threads not in (None, available_cpus()):
        options["threads"] = threads
    settings = ",".join(f"{name}={value}" for name, value in options.items())
    return ["-m", "t2tdeploy", "serve", "--bundle", bundle, "--port", "0", "--options", settings, "--json"]
