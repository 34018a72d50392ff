"""What every call passes before it is answered, and what is told about it afterwards. Knows no protocol.

`GrpcGate` (grpc_gate.py) and `http_gate` (http_gate.py) put their calls through a `Gate`. A service whose calls are
streams of requests finds it by `current_gate`, and counts each of them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from t2tdeploy.serving.auth import OPEN_METHODS, Authenticator
from t2tdeploy.serving.call_record import CallRecord, RecordSink
from t2tdeploy.serving.client_slots import ClientSlots, StreamSlots

logger = logging.getLogger("t2tdeploy.serving")


class SlowBodyError(Exception):
    """A request did not arrive as fast as it must: its client's doing, or that of the way.

    Args:
        seconds: that were waited for it.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"request: its body did not arrive within {seconds:g} seconds")


class Gate:
    """Credentials, calls at once, and who is told about every call.

    Args:
        sinks: are given the record of every call when it has ended.
    """

    def __init__(self, authenticator: Authenticator, slots: ClientSlots, sinks: Sequence[RecordSink] = ()) -> None:
        self._authenticator, self._slots, self._sinks = authenticator, slots, tuple(sinks)

    def admit(self, record: CallRecord, authorization: str | None) -> None:
        """Lets a call in by its credentials, before its message is read, and notes whose it is.

        Raises:
            UnauthenticatedError, PermissionDeniedError: it may not be made.
        """
        record.client = self._authenticator.admit(record.method, authorization).name

    @contextlib.contextmanager
    def slot(self, record: CallRecord) -> Iterator[None]:
        """Around the answering of a call; a client is known by its name, else by its address.

        Raises:
            ClientBusyError: the client has too many under way.
        """
        if record.method in OPEN_METHODS:
            yield
            return
        with self._slots.taken(record.client or record.peer):
            yield

    def stream_slots(self, record: CallRecord) -> StreamSlots:
        """For the requests of a stream, whose call has a `slot`."""
        return StreamSlots(self._slots, record.client or record.peer)

    def ended(self, record: CallRecord, status: str) -> None:
        """Tells all sinks that a call was answered with `status`."""
        record.end(status)
        for sink in self._sinks:
            try:
                sink(record)
            except Exception:  # a fault in what is told must not become one in what is answered
                logger.exception("a call could not be reported")


_OPEN = Gate(Authenticator(None), ClientSlots(None))
_current: ContextVar[Gate] = ContextVar("t2tdeploy_gate")


def current_gate() -> Gate:
    """That the call has passed that is being answered; an open one outside of any."""
    return _current.get(_OPEN)


def set_current_gate(gate: Gate) -> None:
    """The call that this task answers has passed `gate`."""
    _current.set(gate)
