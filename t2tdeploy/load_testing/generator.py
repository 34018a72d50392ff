"""Puts load on a server and measures what comes of it: an asyncio program with gRPC calls that are not retried.

In an open loop a latency counts from when the request was due, not from when it could be sent. A server that stalls for
a second is then seen to make a second's worth of requests wait; counted from the sending, only those would be seen that
happened to be under way. Gil Tene named the mistake coordinated omission, and mended it in wrk2 and HdrHistogram.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from t2tdeploy.errors import OperationalError, RequestError, ServerError, T2TDeployError, UserError
from t2tdeploy.load_testing.plan import ClosedLoop, OpenLoop, Plan, Shape
from t2tdeploy.load_testing.tally import NOT_SENT, Measured, Outcome, Tally
from t2tdeploy.progress import Reporter, SilentReporter, Task
from t2tdeploy.serving.attempts import unreachable_help
from t2tdeploy.serving.channel import PLAIN, Security, call_timeout, open_async_channel
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.v1 import translation_pb2 as pb

_CONNECT_SECONDS = 5.0
_SHOW_SECONDS = 0.5
_SHORTEST_TIMEOUT = 0.001  # gRPC takes no negative one
_ERROR_PAUSE = 0.01  # before a caller of a closed loop asks again: refusals cost little, and it would do nothing else
_LATE_SECONDS = 1.0  # beyond the deadline, until a call that has not ended is given up

Call = Callable[[bytes, float], Awaitable[Outcome]]
"""A request and when it was due -> what came of it."""


class Target:
    """The server under load, over several connections. Use it in an `async with`, on one event loop.

    Args:
        server: "host:port".
        deadline: see `Plan`.
        security: TLS and token.
    """

    def __init__(
        self, server: str, *, connections: int = 1, deadline: float = 10.0, security: Security = PLAIN
    ) -> None:
        self._security = security
        self._server, self._deadline = server, deadline
        self._connections = connections
        self._channels: list[grpc.aio.Channel] = []
        self._calls: Iterator[Any] = iter(())
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Target:
        for _ in range(self._connections):
            options: list[tuple[str, Any]] = [
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection
                ("grpc.enable_retries", 0),
            ]
            channel = open_async_channel(self._server, self._security, options)
            self._channels.append(await self._stack.enter_async_context(channel))
        path, read = f"/{SERVICE}/Translate", pb.TranslateResponse.FromString
        self._calls = itertools.cycle(
            [channel.unary_unary(path, response_deserializer=read) for channel in self._channels]
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def try_out(self, message: bytes) -> tuple[str, str]:
        """Sends one request, to find out whether the server is there and takes such.

        Returns:
            The model that answered, and its content.

        Raises:
            UserError: it has no such model, or does not take such requests; the field is named.
            ServerError: it did not answer.
        """
        call = next(self._calls)
        try:
            response = await call(message, timeout=call_timeout(max(_CONNECT_SECONDS, self._deadline)))
        except grpc.aio.AioRpcError as error:
            raise self._as_error(error) from None
        return response.model, response.model_version

    async def ask(self, message: bytes, due: float) -> Outcome:
        """One request; whatever comes of it is an outcome."""
        loop = asyncio.get_running_loop()
        sent = loop.time()
        timeout = call_timeout(max(_SHORTEST_TIMEOUT, due + self._deadline - sent))
        try:
            response = await next(self._calls)(message, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return Outcome(due, sent, loop.time(), error.code().name, error.details() or "")
        ended = loop.time()
        timing, translations = response.timing, response.translations
        return Outcome(
            due, sent, ended, "OK",
            sentences=len(translations),
            source_tokens=sum(one.source_tokens for one in translations),
            target_tokens=sum(one.hypotheses[0].tokens for one in translations),
            queue=timing.queue.seconds + timing.queue.nanos / 1e9,
            compute=timing.compute.seconds + timing.compute.nanos / 1e9,
        )  # fmt: skip

    def _as_error(self, error: grpc.aio.AioRpcError) -> T2TDeployError:
        code, details = error.code(), error.details() or ""
        if code == grpc.StatusCode.INVALID_ARGUMENT:
            field, _, message = details.partition(": ")
            return RequestError(field, message)
        if code == grpc.StatusCode.NOT_FOUND:
            return UserError(details)
        help = {
            grpc.StatusCode.UNAVAILABLE: unreachable_help(self._server, self._security, details),
            grpc.StatusCode.DEADLINE_EXCEEDED: f"{self._server} took the connection and said nothing: is it serving?",
            grpc.StatusCode.UNIMPLEMENTED: f"is {self._server} a t2tdeploy server?",
        }.get(code)
        return ServerError(code.name, details, help=help)


async def measure(
    ask: Call, messages: Sequence[bytes], shape: Shape, plan: Plan, reporter: Reporter | None = None
) -> Measured:
    """Puts one load on a server: warm-up, window, and the answers that are still due.

    Args:
        ask: `Target.ask`.
        messages: requests, sent in turn.

    Raises:
        OperationalError: calls have not ended long after their deadlines.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    tally = Tally(start + plan.warm_up, plan.deadline)
    run = _Run(ask, itertools.cycle(messages), plan, tally, start)
    sending = loop.create_task(_open_loop(run, shape) if isinstance(shape, OpenLoop) else _closed_loop(run, shape))
    total = plan.requests if plan.duration is None else None
    with (reporter or SilentReporter()).task(str(shape), total=total, unit="requests") as task:
        shown = _Shown(tally, start, task)
        showing = loop.create_task(shown.repeat())
        try:
            await sending
            shown.show()
        finally:
            sending.cancel()
            showing.cancel()
    return Measured(
        load=str(shape),
        rate=shape.rate if isinstance(shape, OpenLoop) else None,
        concurrency=shape.concurrency if isinstance(shape, ClosedLoop) else None,
        seconds=tally.end - tally.begin,
        cpu_seconds=run.cpu_seconds,
        tally=tally,
    )


class _Run:
    """One measurement under way: what both loops share."""

    def __init__(self, ask: Call, messages: Iterator[bytes], plan: Plan, tally: Tally, start: float) -> None:
        self.plan, self.tally, self.start = plan, tally, start
        self.stop = float("inf") if plan.duration is None else tally.begin + plan.duration
        self.measured = 0
        self.cpu_seconds = 0.0
        self._ask, self._messages = ask, messages
        self._clock = time.process_time
        self._loop = asyncio.get_running_loop()
        self._cpu_before: float | None = None
        self._ended = False
        self._loop.call_at(tally.begin, self._begin_window)
        # Whoever falls behind goes on sending when the time is over: what is answered then does not count.
        if plan.duration is not None:
            tally.end = self.stop
            self._loop.call_at(self.stop, self.end_window)

    def _begin_window(self) -> None:
        self._cpu_before = self._clock()

    def takes(self, due: float) -> bool:
        """Whether another request is sent at `due`; counts it."""
        if due >= self.stop or self.complete:
            return False
        self.measured += due >= self.tally.begin
        return True

    @property
    def complete(self) -> bool:
        """Whether all of so many requests were sent."""
        return self.plan.requests is not None and self.measured >= self.plan.requests

    async def send(self, due: float) -> bool:
        """One request, to its end; whether it was answered."""
        outcome = await self._ask(next(self._messages), due)
        self.tally.add(outcome)
        return outcome.status == "OK"

    def skip(self, due: float) -> None:
        """One request that is not sent."""
        self.tally.add(Outcome(due, due, due, NOT_SENT))

    def end_window(self) -> None:
        """Answers from now on do not count for rates; the first call decides."""
        if self._ended:
            return
        self._ended = True
        self.tally.end = min(self.stop, self._loop.time())
        self.cpu_seconds = self._clock() - (self._clock() if self._cpu_before is None else self._cpu_before)


async def _open_loop(run: _Run, shape: OpenLoop) -> None:
    """Starts every request when it is due, whatever became of those before it."""
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[bool]] = set()
    async with _answers(run.plan) as (calls, limit):
        for offset in shape.times(run.plan.seed):
            due = run.start + offset
            if not run.takes(due):
                break
            # Behind the times, answers are read all the same.
            await asyncio.sleep(max(0.0, due - loop.time()))
            if len(pending) >= run.plan.max_in_flight:
                run.skip(due)
                continue
            task = calls.create_task(run.send(due))
            pending.add(task)
            task.add_done_callback(pending.discard)
        if run.complete and pending:  # all of so many: the window lasts until they are answered
            await asyncio.wait(set(pending), timeout=run.plan.deadline + _LATE_SECONDS)
        elif not run.complete:
            await asyncio.sleep(max(0.0, run.stop - loop.time()))
        run.end_window()
        limit.reschedule(loop.time() + run.plan.deadline + _LATE_SECONDS)


async def _closed_loop(run: _Run, shape: ClosedLoop) -> None:
    """So many callers, each with one request under way."""
    loop = asyncio.get_running_loop()

    async def call() -> None:
        while run.takes(due := loop.time()):
            if not await run.send(due):
                await asyncio.sleep(_ERROR_PAUSE)

    async with _answers(run.plan) as (calls, limit):
        callers = [calls.create_task(call()) for _ in range(shape.concurrency)]
        await asyncio.wait(callers, timeout=None if run.plan.duration is None else run.stop - loop.time())
        run.end_window()
        limit.reschedule(loop.time() + run.plan.deadline + _LATE_SECONDS)


@asynccontextmanager
async def _answers(plan: Plan) -> AsyncIterator[tuple[asyncio.TaskGroup, asyncio.Timeout]]:
    """A group whose tasks are waited for at the end, and the time limit of that.

    Raises:
        OperationalError: it passed.
    """
    try:
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as calls:
            yield calls, limit
    except TimeoutError:
        raise OperationalError(
            f"calls have not ended {_LATE_SECONDS:g} s after their deadline of {plan.deadline:g} s"
        ) from None


class _Shown:
    """Tells how a measurement goes, now and then and at its end."""

    def __init__(self, tally: Tally, start: float, task: Task) -> None:
        self._tally, self._start, self._task = tally, start, task
        self._shown = 0

    async def repeat(self) -> None:
        while True:
            await asyncio.sleep(_SHOW_SECONDS)
            self.show()

    def show(self) -> None:
        tally, now = self._tally, asyncio.get_running_loop().time()
        if now < tally.begin:
            self._task.advance(0, warm_up=round(now - self._start, 1))
            return
        seconds = min(now, tally.end) - tally.begin
        total, p50 = tally.total, tally.latency.percentile(0.5)
        self._task.advance(
            total - self._shown,
            seconds=round(seconds, 1),
            ok_per_s=round(tally.answered["requests"] / max(seconds, _SHORTEST_TIMEOUT), 1),
            p50_ms="-" if p50 is None else round(p50 * 1000, 1),
            errors=total - tally.statuses["OK"],
        )
        self._shown = total
