"""Logs of a server: an access line for every call, and log records as text or as one JSON object a line.

The texts of users are in none of them.
"""

from __future__ import annotations

import datetime
import json
import logging
from typing import Any, Literal

from t2tdeploy.serving.auth import OPEN_METHODS
from t2tdeploy.serving.call_record import CallRecord

ACCESS_LOGGER = "t2tdeploy.access"

LogFormat = Literal["text", "json"]

_access = logging.getLogger(ACCESS_LOGGER)
_FIELDS = "t2tdeploy_fields"


def log_access(record: CallRecord) -> None:
    """Writes the access line of a call to the logger `t2tdeploy.access`; a `RecordSink`.

    Calls of health checks are left out while they are answered: a probe a second would hide the rest.
    """
    if record.method in OPEN_METHODS and record.status in ("OK", "CANCELLED"):
        return
    if not _access.isEnabledFor(logging.INFO):
        return
    fields = access_fields(record)
    # What Logger.info does, without looking through the stack for its caller, which is always this line.
    line = _access.makeRecord(
        ACCESS_LOGGER, logging.INFO, __file__, 0, "%s", (_Words(fields),), None, extra={_FIELDS: fields}
    )
    _access.handle(line)


def access_fields(record: CallRecord) -> dict[str, Any]:
    """What an access line says; times in milliseconds. What is not known is left out."""
    fields = {
        "request_id": record.request_id,
        "protocol": record.protocol,
        "method": f"{record.service}/{record.method}",
        "status": record.status,
        "peer": record.peer,
        "client": record.client,
        "model": record.model,
        "version": record.version,
        "sentences": record.sentences,
        "source_tokens": record.source_tokens,
        "target_tokens": record.target_tokens,
        "queue_ms": _milliseconds(record.queue),
        "compute_ms": _milliseconds(record.compute),
        "total_ms": _milliseconds(record.seconds),
        "error_id": record.error_id,
        "trace_id": record.trace_id,
    }
    return {name: value for name, value in fields.items() if value not in ("", None, 0)}


def make_formatter(format: LogFormat) -> logging.Formatter:
    """How the log records of a server become lines."""
    if format == "json":
        return JsonFormatter()
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message or fields of an access line, exception."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
        }
        fields = getattr(record, _FIELDS, None)
        line |= {"message": record.getMessage()} if fields is None else fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Words:
    """`name=value` words, joined only if a line of text is written."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._fields.items())


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
