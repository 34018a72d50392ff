"""The error table: what an exception becomes on the wire, whatever the protocol."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass

import grpc

from t2tdeploy.errors import RequestError, UnknownNameError
from t2tdeploy.serving.scheduler import OverloadedError, UnavailableError

_MOST_BYTES = 2000
"""Of a message, which may repeat a client's own words. gRPC sends it as a header, up to three bytes for each of these,
and clients refuse headers of more than 8 KiB."""

logger = logging.getLogger("t2tdeploy.serving")


@dataclass(frozen=True)
class Status:
    """An answer other than OK.

    Args:
        message: for the client; never a stack trace.
        retry_after: seconds until it may be worth trying again; None: unknown.
    """

    code: grpc.StatusCode
    message: str
    retry_after: float | None = None


def status_of(error: Exception) -> Status:
    """The status of an exception that a request ended with. What is not in the table is INTERNAL, with an id under
    which the logger `t2tdeploy.serving` has the cause."""
    match error:
        case RequestError():
            return Status(grpc.StatusCode.INVALID_ARGUMENT, _sentence(error.message, error.help))
        case UnknownNameError():
            return Status(grpc.StatusCode.NOT_FOUND, _sentence(error.message, error.help))
        case OverloadedError():
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), error.retry_after)
        case TimeoutError():
            return Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed")
        case UnavailableError():
            return Status(grpc.StatusCode.UNAVAILABLE, str(error))
    error_id = uuid.uuid4().hex[:12]
    logger.error("internal error %s", error_id, exc_info=error)
    return Status(grpc.StatusCode.INTERNAL, f"internal error {error_id}, see the server's log")


def _sentence(message: str, help: str | None) -> str:
    text = (f"{message} ({help})" if help else message).encode(errors="replace")
    if len(text) <= _MOST_BYTES:
        return text.decode()
    return text[: _MOST_BYTES - 3].decode(errors="ignore") + "…"
