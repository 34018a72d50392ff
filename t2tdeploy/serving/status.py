"""The error table: what an exception becomes on the wire, whatever the protocol."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass

import grpc

from t2tdeploy.errors import RequestError, TooLargeError, UnknownNameError
from t2tdeploy.serving.auth import PermissionDeniedError, UnauthenticatedError
from t2tdeploy.serving.call_record import current_record
from t2tdeploy.serving.client_slots import ClientBusyError
from t2tdeploy.serving.gate import SlowBodyError
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
        reason: why a call was refused, for metrics; empty: it was not refused but went wrong.
        retry_after: seconds until it may be worth trying again; None: unknown.
        fewer_rows: whether a request of fewer sources or examples may be answered.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    retry_after: float | None = None
    fewer_rows: bool = False


def status_of(error: Exception) -> Status:
    """The status of an exception that a request ended with. What is not in the table is INTERNAL, with an id under
    which the logger `t2tdeploy.serving` has the cause. The record of the call that is being answered notes the reason
    or the id."""
    record = current_record()
    status = _refusal(error)
    if status is None:
        error_id = uuid.uuid4().hex[:12]
        logger.error("internal error %s", error_id, exc_info=error)
        status = Status(grpc.StatusCode.INTERNAL, f"internal error {error_id}, see the server's log")
        if record:
            record.error_id = error_id
    if record:
        record.reason = status.reason
    return status


def _refusal(error: Exception) -> Status | None:
    match error:
        case RequestError():
            message, too_large = _sentence(error.message, error.help), isinstance(error, TooLargeError)
            return Status(grpc.StatusCode.INVALID_ARGUMENT, message, "invalid", fewer_rows=too_large)
        case UnknownNameError():
            return Status(grpc.StatusCode.NOT_FOUND, _sentence(error.message, error.help), "not_found")
        case ClientBusyError():
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), "client_busy", error.retry_after)
        case OverloadedError():
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), "queue_full", error.retry_after)
        case TimeoutError():
            return Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed", "deadline")
        case SlowBodyError():
            return Status(grpc.StatusCode.CANCELLED, str(error), "slow_body")
        case UnavailableError():
            return Status(grpc.StatusCode.UNAVAILABLE, str(error), "unavailable")
        case UnauthenticatedError():
            return Status(grpc.StatusCode.UNAUTHENTICATED, str(error), "unauthenticated")
        case PermissionDeniedError():
            return Status(grpc.StatusCode.PERMISSION_DENIED, str(error), "permission_denied")
    return None


def _sentence(message: str, help: str | None) -> str:
    text = (f"{message} ({help})" if help else message).encode(errors="replace")
    if len(text) <= _MOST_BYTES:
        return text.decode()
    return text[: _MOST_BYTES - 3].decode(errors="ignore") + "…"
