"""SIGTERM and Ctrl-C as a wish to stop after the step under way."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A context manager: true once SIGTERM or SIGINT came. A second signal acts as if nobody listened.

    Outside the main thread, where Python handles no signals, it listens to none.
    """

    def __init__(self) -> None:
        self._stopped = False
        self._before: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self._stopped

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {name: signal.signal(name, self._stop) for name in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _stop(self, number: int, frame: FrameType | None) -> None:  # the signature of a handler
        self._stopped = True
        self._restore()

    def _restore(self) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
        self._before = {}
