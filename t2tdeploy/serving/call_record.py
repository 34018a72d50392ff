"""What is known of one call while it is answered: for the access log, metrics and spans, whatever the protocol.

The gate of a protocol (grpc_gate.py, http_gate.py) makes a `CallRecord` and puts it into a context variable; who
answers fills in what it knows through `current_record`; at the end the gate gives it to every `RecordSink`.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

REQUEST_ID = "x-request-id"
"""Metadata or header with the id of a request; sent back with the answer."""

TRACE_PARENT = "traceparent"
"""Metadata or header of W3C Trace Context, https://www.w3.org/TR/trace-context."""

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass
class CallRecord:
    """One call, or one request of a stream of them. Never holds text of users.

    Args:
        request_id: the client's own, if that is sane, else a new one.
        service, method: e.g. "t2tdeploy.serving.v1.TranslationService" and "Translate".
        protocol: "grpc" or "http".
        peer: address of the client, without its port.
        client: name of its token or certificate; empty: unknown.
        trace_parent: W3C traceparent as it came; empty: none, or not valid.
        known: whether the server has such a method.
        requests: of a stream of them; each has a record of its own.
        model, version: name and number of the model that is to answer, set once it is found; empty: none was.
        sentences, source_tokens, target_tokens: of all sources, and of all hypotheses returned.
        queue, compute: seconds; None: it did not come so far. Of a stream, the longest of a sentence.
        computed: seconds from the first look at the call to the end of `compute`.
        reason: why it was refused, see `status.Status`; empty: it was not.
        status: name of the gRPC status, set at the end.
        error_id: of an internal error; the log has its cause.
        started: seconds since 1970.
        seconds: from the first look at the call to its end, set at the end.
    """

    request_id: str
    service: str
    method: str
    protocol: str
    peer: str = ""
    client: str = ""
    trace_parent: str = ""
    known: bool = True
    requests: int = 0
    model: str = ""
    version: str = ""
    sentences: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    queue: float | None = None
    compute: float | None = None
    computed: float | None = None
    reason: str = ""
    status: str = ""
    error_id: str = ""
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    _clock: float = field(default_factory=time.perf_counter, repr=False)

    def admitted(self, sentences: int, source_tokens: int) -> None:
        """So many sentences of it are to be answered; a stream may admit several times."""
        self.sentences += sentences
        self.source_tokens += source_tokens

    def answered(self, queue: float, compute: float, target_tokens: int) -> None:
        """What was admitted last was answered just now, after so many seconds in the queue and under computation."""
        self.queue = queue if self.queue is None else max(self.queue, queue)
        self.compute = compute if self.compute is None else max(self.compute, compute)
        self.target_tokens += target_tokens
        self.computed = time.perf_counter() - self._clock

    def of_request(self) -> CallRecord:
        """A record of the next request of a stream, of whose call this is the record."""
        self.requests += 1
        return CallRecord(
            f"{self.request_id}/{self.requests}",
            self.service,
            self.method,
            self.protocol,
            self.peer,
            self.client,
            self.trace_parent,
        )

    def end(self, status: str) -> None:
        """The call was answered with `status`."""
        self.status = status
        self.seconds = time.perf_counter() - self._clock

    @property
    def trace_id(self) -> str:
        """Of the caller's trace, 32 hexadecimal digits; empty: there is none."""
        return self.trace_parent[3:35]


RecordSink = Callable[[CallRecord], None]
"""Takes the record of every call when it has ended. Must be quick, and must not raise."""

_current: ContextVar[CallRecord | None] = ContextVar("t2tdeploy_call", default=None)


def current_record() -> CallRecord | None:
    """The call that is being answered; None outside of one."""
    return _current.get()


def set_current(record: CallRecord) -> None:
    """`record` is the call that this task answers."""
    _current.set(record)


def sane_id(given: str | None) -> str:
    """`given`, if it can be a request id: up to 128 letters, digits and ._:/+=@-; else a new one. What a client sends
    goes into logs, so nothing else is let through."""
    return given if given and _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def valid_trace_parent(given: str | None) -> str:
    """`given`, if it is a traceparent of W3C Trace Context; else empty."""
    return given if given and len(given) <= 256 and _TRACE_PARENT.fullmatch(given) else ""
