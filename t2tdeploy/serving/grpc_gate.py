"""The gate of gRPC calls: a server interceptor for every service on the port."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc

from t2tdeploy.serving.answering import cancelled_status, hints_of
from t2tdeploy.serving.call_record import (
    REQUEST_ID,
    TRACE_PARENT,
    CallRecord,
    sane_id,
    set_current,
    valid_trace_parent,
)
from t2tdeploy.serving.gate import Gate, set_current_gate
from t2tdeploy.serving.status import status_of

Context = grpc.aio.ServicerContext[Any, Any]

_KINDS = {
    (requests, responses): f"{'stream' if requests else 'unary'}_{'stream' if responses else 'unary'}"
    for requests in (False, True)
    for responses in (False, True)
}
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class GrpcGate(grpc.aio.ServerInterceptor):
    """Puts calls through a `Gate`, and sends their request ids back in the trailing metadata.

    A call without the right credentials is refused before its message is read.

    Args:
        certificates: whether clients may have some.
    """

    def __init__(self, gate: Gate, *, certificates: bool) -> None:
        self._gate, self._certificates = gate, certificates

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        record, authorization = _record_of(handler_call_details)
        if handler is None:
            record.known = False
            return self._refusing(record, grpc.StatusCode.UNIMPLEMENTED, "the server has no such method")
        try:
            self._gate.admit(record, authorization)
        except Exception as error:
            status = status_of(error)
            record.reason = status.reason
            return self._refusing(record, status.code, status.message)
        return self._gated(handler, record)

    def _refusing(self, record: CallRecord, code: grpc.StatusCode, message: str) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler that refuses, whatever the method's kind: a stream of requests is one that nobody has to read."""

        async def refuse(requests: Any, context: Context) -> Any:
            record.peer = _address(context.peer())
            self._gate.ended(record, code.name)
            await _abort(context, code, message, ((REQUEST_ID, record.request_id),))

        return grpc.stream_unary_rpc_method_handler(refuse)

    def _gated(self, handler: grpc.RpcMethodHandler[Any, Any], record: CallRecord) -> grpc.RpcMethodHandler[Any, Any]:
        """`handler`, within the gate."""
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        behavior = getattr(handler, kind)

        async def answer(request: Any, context: Context) -> Any:
            async with _Passage(self._gate, record, context, self._certificates):
                return await behavior(request, context)

        async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
            async with _Passage(self._gate, record, context, self._certificates):
                async for response in behavior(request, context):
                    yield response

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped = answers if inspect.isasyncgenfunction(behavior) else answer
        found: grpc.RpcMethodHandler[Any, Any] = make(
            wrapped, handler.request_deserializer, handler.response_serializer
        )
        return found


class _Passage:
    """One call within the gate: from the first look at it to its end, however that comes."""

    def __init__(self, gate: Gate, record: CallRecord, context: Context, certificates: bool) -> None:
        self._gate, self._record, self._context, self._certificates = gate, record, context, certificates
        self._slot = gate.slot(record)

    async def __aenter__(self) -> None:
        record, context = self._record, self._context
        record.peer = _address(context.peer())
        if self._certificates and not record.client:
            record.client = _certificate_name(context)
        context.set_trailing_metadata(((REQUEST_ID, record.request_id),))
        set_current(record)
        set_current_gate(self._gate)
        try:
            self._slot.__enter__()
        except Exception as error:
            status = status_of(error)
            self._gate.ended(record, status.code.name)
            await _abort(context, status.code, status.message, (*hints_of(status), (REQUEST_ID, record.request_id)))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._slot.__exit__(None, None, None)
        self._gate.ended(self._record, _outcome(self._context, error))


async def _abort(context: Context, code: grpc.StatusCode, message: str, trailing: Any) -> None:
    """Ends a call; always raises."""
    try:
        await context.abort(code, message, trailing)
    except grpc.aio.InternalError:  # it has ended already: the client went away
        raise asyncio.CancelledError from None


def _outcome(context: Context, error: BaseException | None) -> str:
    """The status that the client sees, or would if it still listened."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return cancelled_status(context)
    code = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
    if error is not None and not number:
        return "UNKNOWN"
    return _NAMES.get(number, "UNKNOWN")


def _record_of(details: grpc.HandlerCallDetails) -> tuple[CallRecord, str | None]:
    """The record of a call that begins, and its credentials."""
    metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
    service, _, method = details.method.lstrip("/").rpartition("/")
    record = CallRecord(
        request_id=sane_id(metadata.get(REQUEST_ID)),
        service=service,
        method=method,
        protocol="grpc",
        trace_parent=valid_trace_parent(metadata.get(TRACE_PARENT)),
    )
    return record, metadata.get("authorization")


def _address(peer: str) -> str:
    """ "ipv4:10.0.0.1:5000" -> "10.0.0.1"."""
    kind, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind


def _certificate_name(context: Context) -> str:
    """Common name of the client's certificate, which gRPC has checked; empty: it has none."""
    names = context.auth_context().get("x509_common_name", ())
    return next(iter(names), b"").decode("utf-8", "replace")
