"""The loads are what they say, against real servers."""

from __future__ import annotations

import asyncio
import math

import pytest

from t2tdeploy.errors import ServerError
from t2tdeploy.load_testing.generator import Target, measure
from t2tdeploy.load_testing.plan import ClosedLoop, OpenLoop, Plan, Shape, request_messages
from t2tdeploy.load_testing.tally import NOT_SENT, Measured, Outcome
from tests.load_testing.stalled import Stalled, stalled_server

MESSAGES = request_messages(["a", "b", "c"], 2)


def put(shape: Shape, plan: Plan, release_at: int = 0) -> tuple[Measured, Stalled]:
    async def run() -> tuple[Measured, Stalled]:
        async with (
            stalled_server(release_at) as server,
            Target(f"127.0.0.1:{server.port}", connections=plan.connections, deadline=plan.deadline) as target,
        ):
            return await measure(target.ask, MESSAGES, shape, plan), server

    return asyncio.run(run())


def test_an_open_loop_keeps_its_rate_against_a_stalled_server() -> None:
    """The server answers none before the last has come: an answer that was waited for would never come."""
    plan = Plan(duration=0.5, warm_up=0.1, deadline=30)
    count = 60  # 100/s for 0.6 s
    measured, server = put(OpenLoop(100, "constant"), plan, release_at=count)
    assert server.seen == count
    assert measured.tally.warm_up == 10
    assert measured.tally.statuses == {"OK": 50}
    latency = measured.tally.latency
    # Those that were due first waited for the whole stall: latencies are spread over it as the arrivals are.
    assert latency.max >= 0.48
    assert latency.sum >= sum(0.49 - number / 100 for number in range(50))


def test_a_closed_loop_has_so_many_requests_under_way() -> None:
    plan = Plan(duration=None, requests=40, warm_up=0, deadline=30)
    measured, server = put(ClosedLoop(8), plan, release_at=8)
    assert server.seen == 40
    assert measured.tally.statuses == {"OK": 40}
    assert measured.tally.answered == {
        "requests": 40, "good": 40, "sentences": 80, "source_tokens": 240, "target_tokens": 160,
    }  # fmt: skip


def test_callers_wait_for_their_answers() -> None:
    measured, server = put(ClosedLoop(7), Plan(duration=0.3, warm_up=0, deadline=0.6), release_at=8)
    assert server.seen == 7
    assert measured.tally.statuses == {"DEADLINE_EXCEEDED": 7}
    assert measured.per_second("requests") == 0


def test_what_waits_is_bounded_and_what_is_not_sent_is_counted() -> None:
    plan = Plan(duration=0.3, warm_up=0, deadline=0.5, max_in_flight=5)
    measured, server = put(OpenLoop(100, "constant"), plan, release_at=1000)
    assert server.seen == 5
    assert measured.tally.statuses == {"DEADLINE_EXCEEDED": 5, NOT_SENT: 25}


def test_an_answer_after_the_deadline_is_no_good() -> None:
    async def late(message: bytes, due: float) -> Outcome:
        return Outcome(due, due, due + 2.0, "OK")

    plan = Plan(duration=None, requests=9, warm_up=0, deadline=1)
    measured = asyncio.run(measure(late, MESSAGES, OpenLoop(100), plan))
    assert (measured.tally.good, measured.tally.late) == (0, 9)


def test_who_falls_behind_counts_no_answers_beyond_the_time() -> None:
    """Every request costs 10 ms of a CPU, so that there are 100 a second; 400 are asked for."""

    async def expensive(message: bytes, due: float) -> Outcome:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        while (ended := loop.time()) < sent + 0.01:
            pass
        return Outcome(due, sent, ended, "OK")

    plan = Plan(duration=0.4, warm_up=0.1, deadline=30)
    measured = asyncio.run(measure(expensive, MESSAGES, OpenLoop(400, "constant"), plan))
    assert measured.tally.statuses == {"OK": 160}
    assert measured.seconds == pytest.approx(0.4)
    assert measured.per_second("requests") <= 101
    assert measured.cpu_seconds < 2 * measured.seconds


@pytest.mark.parametrize("shape", [OpenLoop(100), ClosedLoop(2)])
def test_a_fault_of_the_generator_is_not_lost(shape: Shape) -> None:
    async def broken(message: bytes, due: float) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(measure(broken, MESSAGES, shape, Plan(duration=0.2, warm_up=0)))
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


@pytest.mark.parametrize("deadline", [1e10, math.inf])
@pytest.mark.parametrize("shape", [OpenLoop(100), ClosedLoop(2)])
def test_an_answer_may_be_good_however_late(shape: Shape, deadline: float) -> None:
    measured, _ = put(shape, Plan(duration=None, requests=4, warm_up=0, deadline=deadline))
    assert measured.tally.statuses == {"OK": 4}
    assert measured.tally.good == 4


def test_connections_are_connections() -> None:
    _, server = put(ClosedLoop(6), Plan(duration=None, requests=12, warm_up=0, connections=3), release_at=6)
    assert len(server.peers) == 3


def test_no_server_is_said_in_a_sentence() -> None:
    async def ask() -> None:
        async with Target("127.0.0.1:1") as target:
            await target.try_out(MESSAGES[0])

    with pytest.raises(ServerError, match="UNAVAILABLE") as caught:
        asyncio.run(ask())
    assert "t2tdeploy serve" in str(caught.value.help)
