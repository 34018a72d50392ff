"""Methods of a gRPC service from bytes to bytes, with what they raise answered by the error table."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc

from t2tdeploy.serving.status import Status, status_of

RETRY_AFTER = "retry-after-ms"
"""Trailing metadata of RESOURCE_EXHAUSTED: milliseconds, a whole number."""

FEWER_ROWS = "fewer-rows"
"""Trailing metadata of INVALID_ARGUMENT, "1": the request is too large, one of fewer sources or examples may do."""

LARGE_BYTES = 65_536
"""Requests and answers of more are read and written by a thread, so that the event loop goes on."""

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[bytes, Context], Awaitable[bytes]]
StreamMethod = Callable[[bytes, Context], AsyncGenerator[bytes, None]]


def unary(method: Method, answers: Counter[str]) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A handler of calls with one request and one response.

    Requests come as bytes, so that even a message protobuf cannot read is answered with a status of the table.

    Args:
        answers: counts the calls by status name.
    """

    async def answer(content: bytes, context: Context) -> bytes:
        try:
            response = await method(content, context)
        except asyncio.CancelledError:  # by the client, or its deadline
            answers["CANCELLED"] += 1
            raise
        except Exception as error:
            await abort(error, context, answers)
            raise AssertionError("abort raises") from error
        answers["OK"] += 1
        return response

    return grpc.unary_unary_rpc_method_handler(answer)


def server_stream(method: StreamMethod, answers: Counter[str]) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A handler of calls with one request and a stream of responses, sent as fast as the client reads them.

    Args:
        answers: counts the calls by status name.
    """

    async def answer(content: bytes, context: Context) -> None:
        try:
            async with contextlib.aclosing(method(content, context)) as responses:
                async for response in responses:
                    await context.write(response)
        except asyncio.CancelledError:  # by the client, or its deadline
            answers["CANCELLED"] += 1
            raise
        except Exception as error:
            await abort(error, context, answers)
            raise AssertionError("abort raises") from error
        answers["OK"] += 1

    return grpc.unary_stream_rpc_method_handler(answer)


async def abort(error: Exception, context: Context, answers: Counter[str]) -> None:
    """Ends a call with the status of `error`; always raises.

    Raises:
        asyncio.CancelledError: the call had ended already: its deadline passes for gRPC a moment before it does for us.
            Anything else gRPC would log as a fault of the server's.
    """
    status = status_of(error)
    answers[status.code.name] += 1
    sent = tuple(context.trailing_metadata() or ())  # by the gate: the id of the request
    try:
        await context.abort(status.code, status.message, (*hints_of(status), *sent))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def hints_of(status: Status) -> list[tuple[str, str]]:
    """The trailing metadata that tell a client what to do about a status."""
    hints = [] if status.retry_after is None else [(RETRY_AFTER, str(round(status.retry_after * 1000)))]
    return [*hints, (FEWER_ROWS, "1")] if status.fewer_rows else hints


async def in_thread_if(large: bool, function: Any, *arguments: Any) -> Any:
    """Calls it, where it may take long on a thread."""
    return await asyncio.to_thread(function, *arguments) if large else function(*arguments)


def deadline_of(context: Context) -> float | None:
    """When the call's deadline passes, on the clock of the running event loop; None: it has none."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


def cancelled_status(context: Context) -> str:
    """Name of the status of a call that was cancelled: by its client, or because its deadline passed."""
    remaining = context.time_remaining()
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
