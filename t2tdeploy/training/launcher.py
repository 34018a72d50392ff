"""Several processes of one command on this machine: starts them, passes signals on, ends all when one fails.

Imports nothing heavy: the process that launches only waits.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from t2tdeploy.errors import TrainingError

MEETING_FILE = "T2TDEPLOY_MEETING_FILE"  # environment variable; where launched processes find each other
LOST, INTERRUPTED = 3, 130  # exit statuses of a process: it lost another one; a signal ended it in order
_GRACE_SECONDS = 10.0  # for the others to end by themselves once one has failed
_LAST_LINES = 20
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def launched() -> bool:
    """True in a process that `launch` started."""
    return MEETING_FILE in os.environ


def launch(command: Sequence[str], *, processes: int) -> int:
    """Runs `command` in so many processes and waits for them; only the first one's output is shown.

    SIGTERM and SIGINT go on to all of them, each once. A process that fails ends the others, by force after some
    seconds. If this process is killed, they stop in order (`die_with_launcher`).

    Returns:
        the exit status: 0; 130 if a signal stopped them; that of the first process if it failed, for it said why.

    Raises:
        TrainingError: another process failed, or one was killed; says which, how, and its last words.
    """
    with tempfile.TemporaryDirectory(prefix="t2tdeploy-") as folder:
        launched = _Launched(command, processes, Path(folder))
        before = {number: signal.signal(number, launched.forward) for number in _SIGNALS}
        try:
            launched.start()
            launched.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            launched.kill()
        return launched.status()


def die_with_launcher() -> None:
    """Makes the end of the launcher, however it comes, a SIGTERM to this process."""
    if launched():
        threading.Thread(target=_watch_launcher, daemon=True).start()


def _watch_launcher() -> None:
    while os.read(0, 1):  # the launcher holds the other end of the pipe and writes nothing
        pass
    os.kill(os.getpid(), signal.SIGTERM)


class _Launched:
    def __init__(self, command: Sequence[str], count: int, folder: Path) -> None:
        self._command, self._count, self._folder = command, count, folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._forwarded = False
        self._culprit: int | None = None  # rank of the process to blame

    def start(self) -> None:
        for rank in range(self._count):
            environment = {
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(self._count),
                "LOCAL_WORLD_SIZE": str(self._count),
                MEETING_FILE: str(self._folder / "meeting"),
            }
            with self._errors(rank).open("wb") as errors:
                process = subprocess.Popen(
                    self._command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    stderr=None if rank == 0 else errors,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
                )
            self._processes.append(process)
            threading.Thread(target=self._report_end, args=(rank, process), daemon=True).start()

    def wait(self) -> None:
        """Until all have ended; those that outlive a failure for long are killed.

        To blame is the first that failed; but one that only lost another may end before that one, which then is.
        """
        deadline: float | None = None
        innocent = {0, INTERRUPTED}
        for _ in range(self._count):
            try:
                rank = self._ended.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.kill()
                return
            status = self._processes[rank].returncode
            if status in innocent:
                continue
            innocent.add(LOST)
            if self._culprit is None or self._processes[self._culprit].returncode == LOST:
                self._culprit = rank
            deadline = deadline or time.monotonic() + _GRACE_SECONDS

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def forward(self, number: int, frame: FrameType | None) -> None:  # the signature of a handler
        self._forwarded = True
        for process in self._processes:
            process.send_signal(number)

    def status(self) -> int:
        """See `launch`."""
        statuses = [process.returncode for process in self._processes]
        if self._culprit is None:
            return INTERRUPTED if INTERRUPTED in statuses else 0
        if self._forwarded and statuses[self._culprit] in [-number for number in _SIGNALS]:
            return INTERRUPTED  # stopped before it could listen, or for the second time
        if statuses[0] in (1, 2):
            return int(statuses[0])
        raise self._error(self._culprit, statuses[self._culprit])

    def _error(self, rank: int, status: int) -> TrainingError:
        ending = f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        lines = self._errors(rank).read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        words = "".join(f"\n  {line}" for line in lines)
        memory = "the kernel does so when memory runs out, then lower batch_size; " if status == -signal.SIGKILL else ""
        return TrainingError(
            f"process {rank} of {self._count} (ranks from 0) {ending}; the others were ended"
            + (f"; its last words:{words}" if words else ""),
            help=f"{memory}the same command resumes from the last checkpoint",
        )

    def _errors(self, rank: int) -> Path:
        return self._folder / f"stderr-{rank}"

    def _report_end(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._ended.put(rank)
