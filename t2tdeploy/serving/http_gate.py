"""The gate of HTTP requests: a middleware of aiohttp, and the error table in HTTP's words."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import grpc
from aiohttp import web
from aiohttp.typedefs import Middleware

from t2tdeploy.serving.call_record import REQUEST_ID, TRACE_PARENT, CallRecord, sane_id, set_current, valid_trace_parent
from t2tdeploy.serving.gate import Gate
from t2tdeploy.serving.status import Status, status_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""The mapping of google.rpc.Code, https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto."""

_OWN_STATUSES = {405: "UNIMPLEMENTED", 413: "INVALID_ARGUMENT"}
"""Of aiohttp itself: no such method, too large."""

_STATUS_NAMES = {number: code.name for code, number in HTTP_STATUS.items()} | _OWN_STATUSES


def error_response(status: Status) -> web.Response:
    """An answer other than OK: {"error": "…"}, as the Open Inference Protocol writes it."""
    headers = {}
    if status.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(status.retry_after))  # whole seconds, by RFC 9110
    if status.code is grpc.StatusCode.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response({"error": status.message}, status=HTTP_STATUS[status.code], headers=headers)


def http_gate(gate: Gate, service: str) -> Middleware:
    """A middleware that puts requests through `gate`. The name of a route is its method: "ServerLive", "ModelInfer".

    What a handler raises is answered by the error table; errors of aiohttp itself (404, 405, 413) stay as they are.

    Args:
        service: its name in the access log.
    """

    @web.middleware
    async def pass_gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        record = _record_of(request, service)
        set_current(record)
        outcome = "UNKNOWN"
        try:
            response = await _answer(gate, record, request, handler)
            outcome = _STATUS_NAMES.get(response.status, "OK" if response.status < 400 else "UNKNOWN")
            if not response.prepared:
                response.headers[REQUEST_ID] = record.request_id
            return response
        except web.HTTPException as error:
            outcome = _STATUS_NAMES.get(error.status, "UNKNOWN")
            error.headers[REQUEST_ID] = record.request_id
            raise
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        finally:
            gate.ended(record, outcome)

    return pass_gate


async def _answer(gate: Gate, record: CallRecord, request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        if record.known:
            gate.admit(record, request.headers.get("Authorization"))
        record.client = record.client or _certificate_name(request)
        with gate.slot(record):
            return await handler(request)
    except web.HTTPException:
        raise
    except Exception as error:
        return error_response(status_of(error))


def _certificate_name(request: web.Request) -> str:
    """Common name of the client's certificate, which the handshake has checked; empty: it has none."""
    certificate = request.get_extra_info("peercert") or {}
    return str(dict(pair for part in certificate.get("subject", ()) for pair in part).get("commonName", ""))


def _record_of(request: web.Request, service: str) -> CallRecord:
    route = request.match_info.route
    return CallRecord(
        request_id=sane_id(request.headers.get(REQUEST_ID)),
        service=service,
        method=route.name or "",
        protocol="http",
        peer=request.remote or "",
        trace_parent=valid_trace_parent(request.headers.get(TRACE_PARENT)),
        known=request.match_info.http_exception is None,
    )
