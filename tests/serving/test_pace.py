"""Under overload the server goes on answering in time: real queue and pace, a clock of the test's own."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import pytest

from t2tdeploy.serving.batcher import IN_TIME, BatchLimits, BatchQueue, Item
from t2tdeploy.serving.pace import Pace

LIMITS = BatchLimits(
    max_batch_size=64, max_batch_tokens=32_768, max_queue_delay=0.0, max_queue_sentences=2048, max_queue_tokens=131_072
)
CAPACITY = 60.0
"""Sentences per second of `seconds_of`, about, in batches of 64."""


def seconds_of(batch: list[Item[int, None]], chance: random.Random) -> float:
    """50 ms and a millisecond per token with padding, give or take 30 %."""
    padded = len(batch) * max(item.length for item in batch)
    return (0.05 + 0.001 * padded) * chance.uniform(0.7, 1.3)


@dataclass
class Simulated:
    """A server with one worker, as scheduler.py runs it; sentences come at random, one a request."""

    queue: BatchQueue[int, None] = field(default_factory=lambda: BatchQueue(LIMITS))
    pace: Pace = field(default_factory=lambda: Pace(workers=1))
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 0.0
    started: float = 0.0
    free: float = 0.0
    came: int = 0
    in_time: int = 0
    refused: int = 0

    def run(self, rate: float, deadline: float, seconds: float) -> None:
        end, arrival = self.now + seconds, self.now + self.chance.expovariate(rate)
        while True:
            take = max(self.free, self.now) if len(self.queue) else math.inf
            if min(arrival, take) == math.inf:
                return
            if arrival <= take:
                self.now = arrival
                arrival += self.chance.expovariate(rate)
                arrival = arrival if arrival < end else math.inf
                self.arrive(deadline)
            else:
                self.now = take
                self.take()

    def arrive(self, deadline: float) -> None:
        self.came += 1
        length = min(60, max(4, int(self.chance.lognormvariate(2.5, 0.5))))
        running = self.now - self.started if self.free > self.now else None
        late = self.pace.lateness(self.queue.tokens + length, self.queue.tokens + length, running, deadline)
        if (len(self.queue) and late > 0) or not self.queue.has_room(1, length):
            self.refused += 1
            return
        self.queue.add([Item(None, length, length * 8, 0, self.now + deadline)], self.now)

    def take(self) -> None:
        self.queue.expire(self.now, self.pace.next_batch(self.queue.tokens))
        batch = self.queue.take(self.now, self.pace.token)
        if not batch:
            return
        end = self.now + seconds_of(batch, self.chance)
        wanted_until = max(item.deadline or 0.0 for item in batch)
        self.started, self.free = self.now, min(end, wanted_until)  # stopped when nobody waits any more
        self.in_time += sum((item.deadline or 0.0) >= end for item in batch)
        self.pace.learn(
            self.free - self.now,
            sum(item.length for item in batch),
            others_waited=len(self.queue) > 0,
            complete=end <= wanted_until,
        )


@pytest.mark.parametrize("deadline", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("overload", [2, 5])
def test_overload_leaves_the_goodput(deadline: float, overload: int) -> None:
    best = 0.0
    for share in (0.5, 0.7, 0.9, 1.1):
        server = Simulated()
        server.run(share * CAPACITY, deadline, seconds=40)
        best = max(best, server.in_time / 40)
    server = Simulated()
    server.run(overload * CAPACITY, deadline, seconds=40)
    assert server.in_time / 40 >= 0.9 * best
    assert server.in_time >= 0.8 * (server.came - server.refused)  # of those that were accepted


def test_batches_are_not_so_large_that_they_come_too_late() -> None:
    """Full ones take 1 s of the 3 s that sentences may wait for theirs, and for the one before it."""
    server = Simulated()
    server.run(2 * CAPACITY, 3.0, seconds=40)
    assert server.in_time / 40 >= 0.95 * CAPACITY


def test_with_time_enough_nothing_is_refused() -> None:
    server = Simulated()
    server.run(0.6 * CAPACITY, 20.0, seconds=60)
    assert (server.refused, server.in_time) == (0, server.came)


@pytest.mark.parametrize("seconds", [0.05, 30.0])
def test_a_wrong_estimate_mends_itself(seconds: float) -> None:
    """After batches that were much slower, or faster, than those that come: some of 30 s, perhaps of other options."""
    server = Simulated()
    for _ in range(5):
        server.pace.learn(seconds, 100, others_waited=True, complete=False)
    server.run(0.5 * CAPACITY, 2.0, seconds=20)
    before = (server.came, server.in_time)
    server.run(0.3 * CAPACITY, 2.0, seconds=40)
    assert server.in_time - before[1] >= 0.85 * (server.came - before[0])


def test_nothing_is_estimated_before_batches_left_others_waiting() -> None:
    pace = Pace(workers=1)
    pace.learn(0.5, 10, others_waited=False, complete=True)
    assert pace.lateness(100_000, 100_000, 0.1, remaining=0.01) < 0
    assert pace.next_batch(100_000) == 0
    pace.learn(1.0, 100, others_waited=True, complete=True)
    assert pace.wait(1000) == pytest.approx(10.0)
    assert pace.next_batch(10) == pytest.approx(0.2)
    assert pace.lateness(1000, 1000, None, remaining=20.0) < 0 < pace.lateness(1000, 1000, None, remaining=10.0)
    assert pace.lateness(10, 1000, None, remaining=1.0) > 0 > pace.lateness(10, 1000, None, remaining=2.0)


def test_several_workers_empty_a_queue_faster() -> None:
    one, two = Pace(workers=1), Pace(workers=2)
    for pace in (one, two):
        pace.learn(1.0, 100, others_waited=True, complete=True)
    assert two.wait(1000) == one.wait(1000) / 2


def test_a_batch_on_all_cpus_tells_what_it_would_have_taken_on_a_share() -> None:
    lone, beside = Pace(workers=2), Pace(workers=2)
    lone.learn(0.5, 100, others_waited=True, complete=True, widened=True)
    beside.learn(1.0, 100, others_waited=True, complete=True)
    assert lone.wait(1000) == beside.wait(1000)


def test_it_is_calm_when_batches_have_had_no_company_for_a_while() -> None:
    pace = Pace(workers=2)
    assert pace.is_calm(0.0)
    pace.learn(0.04, 10, others_waited=False, complete=True)
    assert pace.pause(1.0) == 0
    pace.met_company(1.0)
    assert not pace.is_calm(1.07)
    assert pace.pause(1.07) == pytest.approx(0.002)
    assert pace.is_calm(1.09)
    assert pace.pause(1.09) == 0
    pace.learn(30.0, 10, others_waited=False, complete=True)
    assert pace.pause(1.09) < 0.01


@pytest.mark.parametrize("slower", [False, True])
@pytest.mark.parametrize("length", [1, 10, 25, 60])
def test_who_is_in_a_hurry_is_taken_before_it_counts_as_hopeless(length: int, slower: bool) -> None:
    """With a delay for fuller batches, beside one that has time: the batch is what one of the mean of late was."""
    pace, queue = Pace(workers=1), BatchQueue[int, None](replace(LIMITS, max_queue_delay=5.0))
    for _ in range(5):
        pace.learn(0.05, 50, others_waited=True, complete=True)
    hurried = Item(None, length, length, 0, deadline=1.0)
    queue.add([Item(None, length, length, 1), hurried, *(Item(None, length, length, 0) for _ in range(4))], now=0.5)
    if slower:  # what it learns while they wait
        pace.learn(0.1, 100, others_waited=True, complete=True)
    due = queue.due(pace.lead(queue.tokens))
    assert due is not None
    assert queue.expire(due, pace.next_batch(queue.tokens)) == []
    batch = queue.take(due, pace.token, pace.lead(queue.tokens))
    assert hurried in batch
    assert due + pace.token * sum(item.length for item in batch) < 1.0 or len(batch) == 1


def test_where_nothing_is_known_who_has_a_deadline_is_taken_at_once() -> None:
    """Else a lone request with less time than the delay for fuller batches would wait beside an idle worker until it is
    out of time, and so would the next: no batch would ever run, from which to learn."""
    pace, queue = Pace(workers=1), BatchQueue[int, None](replace(LIMITS, max_queue_delay=5.0))
    lone = Item(None, 3, 3, 0, deadline=2.0)
    queue.add([lone], now=0.0)
    assert queue.take(0.0, pace.token, pace.lead(queue.tokens)) == [lone]


@pytest.mark.parametrize("lone", [0, 1, 3])
def test_a_burst_after_lone_requests_is_taken_in_time(lone: int) -> None:
    """The delay for fuller batches is longer than anybody waits, and no batch ever leaves others waiting, from which to
    learn what a token of a large batch costs."""
    pace, queue = Pace(workers=1), BatchQueue[int, None](replace(LIMITS, max_queue_delay=2.0))
    now = 0.0
    for _ in range(12):
        for count in [*[1] * lone, 20]:
            items = [Item(None, 10, 10, 0, deadline=now + 1.0) for _ in range(count)]
            queue.add(items, now)
            due = queue.due(pace.lead(queue.tokens))
            assert due is not None
            now = max(now, due)
            assert queue.expire(now, pace.next_batch(queue.tokens)) == []
            assert queue.take(now, pace.token, pace.lead(queue.tokens)) == items
            seconds = 0.02 + 0.012 * count
            pace.learn(seconds, 10 * count, others_waited=False, complete=True)
            now += seconds
            assert now <= items[0].deadline


def test_a_batch_that_was_stopped_makes_no_token_dear() -> None:
    """A lone request that is cancelled after a second says little of what a hundred tokens cost."""
    pace = Pace(workers=1)
    pace.learn(1.0, 2, others_waited=False, complete=False)
    assert pace.lead(2) == math.inf
    pace.learn(0.1, 10, others_waited=False, complete=True)
    known = pace.lead(1000)
    assert known == pytest.approx(10 / IN_TIME)
    pace.learn(1.0, 2, others_waited=False, complete=False)
    assert pace.lead(1000) == known


def test_a_stopped_batch_of_rare_options_refuses_no_more_than_one_that_ended() -> None:
    """It was small although others waited, and its few tokens cost as much as many."""
    stopped, ended = Pace(workers=1), Pace(workers=1)
    for pace, complete in ((stopped, False), (ended, True)):
        for _ in range(10):
            pace.learn(0.05, 100, others_waited=True, complete=True)
        pace.learn(0.05, 2, others_waited=True, complete=complete)
    assert stopped.lateness(500, 500, None, 2.0) <= ended.lateness(500, 500, None, 2.0)


def test_a_stopped_batch_makes_nothing_cheaper() -> None:
    """It would have taken longer, however few seconds it ran."""
    pace = Pace(workers=1)
    pace.learn(1.0, 100, others_waited=True, complete=True)
    pace.learn(0.01, 100, others_waited=True, complete=False)
    assert (pace.batch, pace.token) == (1.0, 0.01)
