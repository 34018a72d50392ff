"""Requests within a stream: how many of a client are under way, what is left when it ends, and how they are counted."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.auth import Authenticator
from t2tdeploy.serving.call_record import CallRecord, current_record, set_current
from t2tdeploy.serving.client_slots import ClientBusyError, ClientSlots
from t2tdeploy.serving.gate import Gate, set_current_gate
from t2tdeploy.serving.inference.service import STREAM_REQUESTS, InferenceService
from tests.serving.inference.conftest import tensor
from tests.serving.inference.test_stream import streamed
from tests.serving.running import running


class Context:
    """Of a call without a deadline."""

    def time_remaining(self) -> None:
        return None


class Stream(InferenceService):
    """A stream whose requests end when they are let; remembers how many are under way."""

    def __init__(self, limit: int | None) -> None:
        self.slots, self.records = ClientSlots(limit), list[CallRecord]()
        self.now = self.most = 0
        self.go = asyncio.Event()
        self._readers, self._closed = set(), False
        set_current(CallRecord("id", "service", "ModelStreamInfer", "grpc", client="web"))
        set_current_gate(Gate(Authenticator(None), self.slots, [self.records.append]))

    async def _answer_in_stream(self, content: bytes, context: Any, record: CallRecord) -> bytes:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        record.status = "OK"
        return content


async def requests(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"%d" % number


async def settle() -> None:
    """All tasks go as far as they can."""
    for _ in range(5 * STREAM_REQUESTS):
        await asyncio.sleep(0)


def within_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    asyncio.run(run())


def test_nothing_is_left_of_a_stream_that_is_cancelled_while_it_is_full() -> None:
    async def test() -> None:
        stream = Stream(None)

        async def read() -> None:
            async for _ in stream.stream_infer(requests(10 * STREAM_REQUESTS), Context()):
                pass

        reading = asyncio.create_task(read())
        await settle()
        assert stream.now == STREAM_REQUESTS
        reading.cancel()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert stream.now == 0
        assert [one.status for one in stream.records] == ["CANCELLED"] * STREAM_REQUESTS

    within_a_loop(test)


@pytest.mark.parametrize(("limit", "others", "expected"), [(1, 0, 1), (3, 0, 3), (3, 1, 2), (3, 2, 1), (None, 0, 64)])
def test_a_stream_has_as_many_requests_under_way_as_its_client_may(
    limit: int | None, others: int, expected: int
) -> None:
    """Its call has one place, which is that of the first of them; others of the client have theirs. None is refused."""

    async def test() -> None:
        stream = Stream(limit)
        held = [stream.slots.taken("web") for _ in range(1 + others)]
        for one in held:
            one.__enter__()

        async def read() -> list[bytes]:
            return [answer async for answer in stream.stream_infer(requests(100), Context())]

        reading = asyncio.create_task(read())
        await settle()
        assert stream.now == expected
        if limit is not None:
            with pytest.raises(ClientBusyError), stream.slots.taken("web"):
                pass
        stream.go.set()
        assert await reading == [b"%d" % number for number in range(100)]
        assert stream.most == expected
        for one in held:
            one.__exit__(None, None, None)
        assert len(stream.slots) == 0

    within_a_loop(test)


def test_every_request_has_a_record_of_its_own() -> None:
    async def test() -> None:
        stream = Stream(2)
        stream.go.set()
        assert [answer async for answer in stream.stream_infer(requests(3), Context())] == [b"0", b"1", b"2"]
        assert [one.request_id for one in stream.records] == ["id/1", "id/2", "id/3"]
        assert {(one.method, one.client, one.status) for one in stream.records} == {("ModelStreamInfer", "web", "OK")}
        call = current_record()
        assert call is not None
        assert (call.request_id, call.requests, call.sentences) == ("id", 3, 0)

    within_a_loop(test)


def test_metrics_count_requests_and_not_streams(bundle: Bundle) -> None:
    with running(bundle, metrics_port=0, max_requests_per_client=2) as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            sent = [["a"], [], ["b", "c"], [], ["d"], *[["e"]] * 10]
            answers = streamed(client, [(str(place), [tensor("sources", one)], {}) for place, one in enumerate(sent)])
        assert [isinstance(one, triton.InferResult) for one in answers] == [bool(one) for one in sent]
        port = server.operations.metrics_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    found = {
        (sample.name.removeprefix("t2tdeploy_"), *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }
    assert found["requests_total", "ModelStreamInfer", "OK", "toy"] == 13
    assert found["requests_total", "INVALID_ARGUMENT", "ModelStreamInfer", "toy"] == 2
    assert sum(value for (name, *_), value in found.items() if name == "requests_total") == 15
    assert found["rejects_total", "invalid", "toy"] == 2
    assert found["sentences_total", "1", "toy"] == 14
    assert found["queue_seconds_count", "toy"] == 13
