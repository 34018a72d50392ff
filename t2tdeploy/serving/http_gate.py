"""The gate of HTTP requests: a middleware of aiohttp, around what answers errors (http.py)."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from t2tdeploy.serving.call_record import REQUEST_ID, TRACE_PARENT, CallRecord, sane_id, set_current, valid_trace_parent
from t2tdeploy.serving.gate import Gate
from t2tdeploy.serving.http import STATUSES, error_response

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVICE = "http"
"""What stands for the service in logs, where gRPC has one."""

_METHODS = {
    "/v2/health/live": "ServerLive",
    "/v2/health/ready": "ServerReady",
    "/v2/repository/models/{model}/load": "RepositoryModelLoad",
    "/v2/repository/models/{model}/unload": "RepositoryModelUnload",
}
"""Paths whose credentials are those of a method of gRPC (auth.py); others go by their path, and need the role `use`."""

_PAGE = re.compile(r"/|/ui|/ui/(?!examples\.json$).*")
"""Paths of the page's own files, which are the same everywhere; the examples are somebody's."""

_OUTCOMES = {number: code.name for code, number in STATUSES.items()} | {
    405: "UNIMPLEMENTED",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
}


def http_gate(gate: Gate, answers: Counter[str]) -> Middleware:
    """A middleware that puts requests through `gate`, and sends their ids back as a header.

    Args:
        answers: counts the requests that are refused here, by status.
    """

    @web.middleware
    async def pass_gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        record = _record_of(request)
        set_current(record)
        outcome = "UNKNOWN"
        try:
            response = await _answer(gate, record, request, handler, answers)
            outcome = _OUTCOMES.get(response.status, "OK" if response.status < 400 else "UNKNOWN")
            if not response.prepared:
                response.headers[REQUEST_ID] = record.request_id
            return response
        except web.HTTPException as error:
            outcome = _OUTCOMES.get(error.status, "UNKNOWN")
            error.headers[REQUEST_ID] = record.request_id
            raise
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        finally:
            gate.ended(record, outcome)

    return pass_gate


async def _answer(
    gate: Gate, record: CallRecord, request: web.Request, handler: Handler, answers: Counter[str]
) -> web.StreamResponse:
    try:
        if record.known:
            gate.admit(record, request.headers.get("Authorization"))
        record.client = record.client or _certificate_name(request)
        with gate.slot(record):
            return await handler(request)
    except web.HTTPException:
        raise
    except Exception as error:
        return error_response(error, answers)


def _certificate_name(request: web.Request) -> str:
    """Common name of the client's certificate, which the handshake has checked; empty: it has none."""
    certificate = request.get_extra_info("peercert") or {}
    return str(dict(pair for part in certificate.get("subject", ()) for pair in part).get("commonName", ""))


def _record_of(request: web.Request) -> CallRecord:
    resource = request.match_info.route.resource
    path = resource.canonical if resource else ""
    return CallRecord(
        request_id=sane_id(request.headers.get(REQUEST_ID)),
        service=SERVICE,
        method="Page" if _PAGE.fullmatch(path) else _METHODS.get(path, path.lstrip("/")),
        protocol="http",
        peer=request.remote or "",
        trace_parent=valid_trace_parent(request.headers.get(TRACE_PARENT)),
        known=request.match_info.http_exception is None,
    )
