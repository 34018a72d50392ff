"""The gate before methods of all four kinds, on a real connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest

from t2tdeploy.errors import RequestError
from t2tdeploy.serving.answering import unary
from t2tdeploy.serving.auth import Authenticator, Client, Role, Token
from t2tdeploy.serving.call_record import CallRecord, current_record
from t2tdeploy.serving.client_slots import ClientSlots
from t2tdeploy.serving.gate import Gate
from t2tdeploy.serving.grpc_gate import GrpcGate

TOKEN = "0123456789abcdef"
GUARDED = Authenticator(lambda: (Token.of(TOKEN, Client("web", Role.USE)),))
OPEN = Authenticator(None)
BEARER = ("authorization", f"Bearer {TOKEN}")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream", "written_stream")


class Methods:
    """A method of every kind that answers with what it was asked; `entered` counts the calls that got through."""

    def __init__(self) -> None:
        self.entered = 0
        self.leave = asyncio.Event()
        self.leave.set()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        return {
            "unary_unary": grpc.unary_unary_rpc_method_handler(self.one),
            "unary_stream": grpc.unary_stream_rpc_method_handler(self.twice),
            "stream_unary": grpc.stream_unary_rpc_method_handler(self.joined),
            "stream_stream": grpc.stream_stream_rpc_method_handler(self.each),
            "written_stream": grpc.stream_stream_rpc_method_handler(self.written),
            "Check": grpc.unary_unary_rpc_method_handler(self.one),
            "LoadModel": grpc.unary_unary_rpc_method_handler(self.one),
            "faulty": grpc.unary_unary_rpc_method_handler(self.faulty),
            "refusing": unary(self.refusing, Counter()),
            "noting": grpc.unary_unary_rpc_method_handler(self.noting),
        }

    async def one(self, request: bytes, context: Any) -> bytes:
        self.entered += 1
        await self.leave.wait()
        return request

    async def twice(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.entered += 1
        yield request
        yield request

    async def joined(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self.entered += 1
        return b"".join([request async for request in requests])

    async def each(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.entered += 1
        async for request in requests:
            yield request

    async def written(self, requests: AsyncIterator[bytes], context: Any) -> None:
        self.entered += 1
        async for request in requests:
            await context.write(request)

    async def faulty(self, request: bytes, context: Any) -> bytes:
        raise ValueError("not for clients")

    async def refusing(self, request: bytes, context: Any) -> bytes:
        raise RequestError("sources", "there is none") if request else ZeroDivisionError

    async def noting(self, request: bytes, context: Any) -> bytes:
        record = current_record()
        assert record is not None
        record.model, record.sentences = "ende", 3
        return record.request_id.encode()


@asynccontextmanager
async def served(
    authenticator: Authenticator = OPEN, limit: int | None = None
) -> AsyncIterator[tuple[grpc.aio.Channel, Methods, Records]]:
    records = Records()
    server = grpc.aio.server(
        interceptors=[GrpcGate(Gate(authenticator, ClientSlots(limit), [records.append]), certificates=False)]
    )
    methods = Methods()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("toy.Toy", methods.handlers()),))
    records.port = port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, methods, records
    finally:
        await server.stop(1)


async def ask(channel: grpc.aio.Channel, method: str, *metadata: tuple[str, str], request: bytes = b"a") -> list[bytes]:
    kind = "stream_stream" if method == "written_stream" else method if method in KINDS else "unary_unary"

    async def requests() -> AsyncIterator[bytes]:
        yield request
        yield b"b"

    made = getattr(channel, kind)(f"/toy.Toy/{method}")
    call = made(requests() if kind.startswith("stream") else request, metadata=metadata, timeout=10)
    return [one async for one in call] if kind.endswith("stream") else [await call]


async def recorded(records: list[CallRecord], count: int) -> list[CallRecord]:
    """A client may have its answer before the call is recorded."""
    while len(records) < count:
        await asyncio.sleep(0.002)
    return records


async def refused(answer: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    return caught.value


def refusal(port: int, method: str, metadata: tuple[tuple[str, str], ...]) -> grpc.Call:
    """What a client that does not use asyncio is told; that of asyncio hides it if it still wants to send."""
    kind = "stream_stream" if method == "written_stream" else method
    request = iter([b"a", b"b"]) if kind.startswith("stream") else b"a"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
        list(getattr(channel, kind)(f"/toy.Toy/{method}")(request, metadata=metadata, timeout=10))
    return cast(grpc.Call, caught.value)


class Records(list[CallRecord]):
    """Those that a server told of, and its port."""

    port: int


def run(test: Callable[..., Awaitable[None]], **options: Any) -> None:
    async def inside() -> None:
        async with served(**options) as parts:
            await test(*parts)

    asyncio.run(inside())


ANSWERS = {
    "unary_unary": [b"a"],
    "unary_stream": [b"a", b"a"],
    "stream_unary": [b"ab"],
    "stream_stream": [b"a", b"b"],
    "written_stream": [b"a", b"b"],
}


def test_a_method_of_any_kind_answers_as_without_the_gate() -> None:
    async def test(channel: grpc.aio.Channel, methods: Methods, records: Records) -> None:
        for kind in KINDS:
            assert await ask(channel, kind, BEARER) == ANSWERS[kind]
        await recorded(records, len(KINDS))
        assert [(one.method, one.status, one.client, one.peer) for one in records] == [
            (kind, "OK", "web", "127.0.0.1") for kind in KINDS
        ]

    run(test, authenticator=GUARDED)


def test_without_credentials_no_method_is_entered() -> None:
    async def test(channel: grpc.aio.Channel, methods: Methods, records: Records) -> None:
        for kind in KINDS:
            for metadata in ((), (("authorization", "Bearer wrong-wrong-wrong"),)):
                error = await asyncio.to_thread(refusal, records.port, kind, metadata)
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED
                assert dict(error.trailing_metadata() or ())["x-request-id"] == records[-1].request_id
        assert methods.entered == 0
        assert {(one.status, one.reason, one.peer) for one in records} == {
            ("UNAUTHENTICATED", "unauthenticated", "127.0.0.1")
        }
        assert await ask(channel, "Check") == [b"a"]

    run(test, authenticator=GUARDED)


def test_a_token_without_the_right_is_denied() -> None:
    async def test(channel: grpc.aio.Channel, methods: Methods, records: Records) -> None:
        error = await refused(ask(channel, "LoadModel", BEARER))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        assert methods.entered == 0

    run(test, authenticator=GUARDED)


def test_the_request_id_is_the_clients_if_it_is_sane() -> None:
    async def test(channel: grpc.aio.Channel, methods: Methods, records: Records) -> None:
        call = channel.unary_unary("/toy.Toy/noting")
        given = call(b"", metadata=(("x-request-id", "mine-1"), ("traceparent", TRACE)))
        assert await given == b"mine-1"
        await recorded(records, 1)
        assert dict(await given.trailing_metadata())["x-request-id"] == "mine-1"
        assert records[-1].trace_parent == TRACE
        other = call(b"", metadata=(("x-request-id", "not {sane}"),))
        assert await other == dict(await other.trailing_metadata())["x-request-id"].encode() != b"not {sane}"
        await recorded(records, 2)
        assert (records[-1].model, records[-1].sentences) == ("ende", 3)

    run(test)


def test_every_outcome_is_recorded_under_its_status() -> None:
    async def test(channel: grpc.aio.Channel, methods: Methods, records: Records) -> None:
        outcomes = (
            ("refusing", b"a", "INVALID_ARGUMENT", "invalid"),
            ("refusing", b"", "INTERNAL", ""),
            ("faulty", b"a", "UNKNOWN", ""),
            ("nowhere", b"a", "UNIMPLEMENTED", ""),
        )
        for count, (method, request, code, reason) in enumerate(outcomes, start=1):
            error = await refused(ask(channel, method, request=request))
            assert error.code().name == code
            await recorded(records, count)
            assert (records[-1].status, records[-1].reason) == (code, reason)
            assert records[-1].known == (method != "nowhere")
            if code == "INTERNAL":
                assert records[-1].error_id in (error.details() or "")
            if code != "UNKNOWN":
                assert dict(error.trailing_metadata())["x-request-id"] == records[-1].request_id

    run(test)


@pytest.mark.parametrize("deadline", [True, False])
def test_a_call_that_ends_early_is_recorded_and_gives_its_place_back(deadline: bool) -> None:
    async def test(channel: grpc.aio.Channel, methods: Methods, records: Records) -> None:
        methods.leave.clear()
        call = channel.unary_unary("/toy.Toy/unary_unary")(b"a", timeout=0.2 if deadline else 10)
        while not methods.entered:
            await asyncio.sleep(0.005)
        if not deadline:
            call.cancel()
        while not records:
            await asyncio.sleep(0.005)
        assert records[-1].status == ("DEADLINE_EXCEEDED" if deadline else "CANCELLED")
        methods.leave.set()
        assert await ask(channel, "unary_unary") == [b"a"]

    run(test, limit=1)


def test_a_client_with_too_many_calls_is_sent_away_with_a_hint() -> None:
    async def test(channel: grpc.aio.Channel, methods: Methods, records: Records) -> None:
        methods.leave.clear()
        first = [asyncio.ensure_future(ask(channel, "unary_unary")) for _ in range(2)]
        while methods.entered < 2:
            await asyncio.sleep(0.005)
        error = await refused(ask(channel, "unary_unary"))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 calls of this client are under way" in (error.details() or "")
        assert int(dict(error.trailing_metadata())["retry-after-ms"]) > 0
        assert (records[-1].status, records[-1].reason) == ("RESOURCE_EXHAUSTED", "client_busy")
        methods.leave.set()
        assert await asyncio.gather(*first) == [[b"a"], [b"a"]]

    run(test, limit=2)
