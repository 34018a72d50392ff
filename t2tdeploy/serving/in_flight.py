"""The requests of one call of a client: some under way at once, each tried again, and all cancelled at its end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

import grpc

from t2tdeploy.progress import Task
from t2tdeploy.serving.attempts import Attempts, ClientOptions, asks_for_fewer_rows
from t2tdeploy.serving.row_requests import M, Request

CHANNEL: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", -1),  # the server bounds what it is asked, and so what it answers
    (
        # Of several addresses of a name all are asked in turn, but for those whose health says that they are leaving.
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}),
    ),
]
"""Options of a client's channel."""

R = TypeVar("R")


def ask_all(
    requests: Sequence[Request[M]],
    start: Callable[[M, float | None], Any],
    read: Callable[[Any], Sequence[R]],
    *,
    target: str,
    options: ClientOptions,
    task: Task,
) -> list[R]:
    """The answers to the rows of all requests, in order. A request of several rows that is too large for the server is
    asked in halves, one after the other, each a request of its own.

    Args:
        start: begins a gRPC call, given a request and its timeout; returns its future.
        read: a response to the answers of its rows.
        task: is told how many rows are done.

    Raises:
        RequestError, ServerError: of the first request that failed; the others are cancelled.
    """
    calls = _Calls()

    def ask(request: Request[M]) -> Sequence[R]:
        attempts = Attempts(target, options, request.first, request.only_row)
        while not calls.cancelled.is_set():
            try:
                call = calls.add(start(request.message, attempts.timeout))
                return read(call.result())
            except grpc.RpcError as error:
                if asks_for_fewer_rows(error) and (halves := request.halves()):
                    return [answer for half in halves for answer in ask(half)]
                calls.cancelled.wait(attempts.pause_after(error))
        return []

    with ThreadPoolExecutor(options.requests_in_flight, thread_name_prefix="t2tdeploy-client") as pool:
        futures = [pool.submit(ask, request) for request in requests]
        try:
            for future in as_completed(futures):
                task.advance(len(future.result()))
        finally:
            calls.cancel()  # after an error, the other requests are not waited for
    return [answer for future in futures for answer in future.result()]


async def ask_all_async(
    requests: Sequence[Request[M]],
    start: Callable[[M, float | None], Awaitable[Any]],
    read: Callable[[Any], Sequence[R]],
    *,
    target: str,
    options: ClientOptions,
    task: Task,
) -> list[R]:
    """As `ask_all`, for asyncio; cancelling it cancels the requests.

    Args:
        start: begins a gRPC call, given a request and its timeout.
    """
    room = asyncio.Semaphore(options.requests_in_flight)

    async def ask(request: Request[M]) -> Sequence[R]:
        attempts = Attempts(target, options, request.first, request.only_row)
        while True:
            try:
                found = read(await start(request.message, attempts.timeout))
            except grpc.aio.AioRpcError as error:
                if asks_for_fewer_rows(error) and (halves := request.halves()):
                    return [answer for half in halves for answer in await ask(half)]
                await asyncio.sleep(attempts.pause_after(error))
            else:
                task.advance(len(found))
                return found

    async def ask_in_turn(request: Request[M]) -> Sequence[R]:
        async with room:
            return await ask(request)

    asking = [asyncio.create_task(ask_in_turn(request)) for request in requests]
    try:
        return [answer for found in await asyncio.gather(*asking) for answer in found]
    finally:
        for one in asking:
            one.cancel()  # after an error, the other requests are not waited for
        await asyncio.gather(*asking, return_exceptions=True)  # their calls have ended before this one does


class _Calls:
    """The calls under way, so that they can be cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._calls: list[Any] = []

    def add(self, call: Any) -> Any:
        with self._lock:
            self._calls = [known for known in self._calls if not known.done()] + [call]
            if self.cancelled.is_set():
                call.cancel()
        return call

    def cancel(self) -> None:
        with self._lock:
            self.cancelled.set()
            for call in self._calls:
                call.cancel()
