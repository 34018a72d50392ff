import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from t2tdeploy.serving.batcher import BatchLimits, BatchQueue, Item, QueueFullError

LIMITS = BatchLimits(
    max_batch_size=4, max_batch_tokens=40, max_queue_delay=0.0, max_queue_sentences=12, max_queue_tokens=150
)


def item(length: int, key: str = "a", deadline: float | None = None, *, cost: int | None = None) -> Item[str, None]:
    return Item(None, length, cost or length, key, deadline)


def limits(**changes: float) -> BatchLimits:
    return BatchLimits(**{**vars(LIMITS), **changes})  # type: ignore[arg-type]


def lengths(batch: list[Item[str, None]]) -> list[int]:
    return sorted(one.length for one in batch)


def padded(batch: list[Item[str, None]]) -> int:
    return len(batch) * max(one.length for one in batch)


def test_a_free_worker_takes_at_once() -> None:
    queue = BatchQueue[str, None](LIMITS)
    queue.add([item(3)], now=0)
    assert lengths(queue.take(now=0)) == [3]
    assert queue.take(now=0) == []
    assert queue.due() is None


def test_similar_lengths_run_together_around_the_oldest() -> None:
    queue = BatchQueue[str, None](LIMITS)
    queue.add([item(9), item(2), item(8), item(3), item(10), item(9)], now=0)
    assert lengths(queue.take(now=0)) == [8, 9, 9, 10]
    assert lengths(queue.take(now=0)) == [2, 3]


def test_a_long_sentence_does_not_drag_many_short_ones() -> None:
    queue = BatchQueue[str, None](LIMITS)
    queue.add([item(1), item(1), item(1), item(10)], now=0)
    assert lengths(queue.take(now=0)) == [1, 1, 1]


def test_a_sentence_beyond_the_token_budget_runs_alone() -> None:
    queue = BatchQueue[str, None](LIMITS)
    queue.add([item(70), item(70)], now=0)
    assert lengths(queue.take(now=0)) == [70]


def test_the_budget_counts_cost_and_similarity_length() -> None:
    queue = BatchQueue[str, None](LIMITS)
    queue.add([item(5, cost=20), item(5, cost=20), item(5, cost=20), item(4, cost=13)], now=0)
    assert lengths(queue.take(now=0)) == [5, 5], "3 * 20 is beyond the budget, and so is 3 * max(20, 13)"
    assert lengths(queue.take(now=0)) == [4, 5]


def test_room_is_counted_before_anything_else_is_known() -> None:
    queue = BatchQueue[str, None](LIMITS)
    queue.add([item(1) for _ in range(10)], now=0)
    assert queue.has_room(2)
    assert not queue.has_room(3)


def test_with_a_delay_a_worker_waits_for_a_full_batch_or_the_delay() -> None:
    queue = BatchQueue[str, None](limits(max_queue_delay=5.0))
    queue.add([item(3)], now=10)
    assert queue.take(now=14.9) == []
    assert queue.due() == 15
    assert lengths(queue.take(now=15)) == [3]

    queue.add([item(3)] + [item(4) for _ in range(3)], now=20)
    assert len(queue.take(now=20)) == LIMITS.max_batch_size

    queue.add([item(20), item(20)], now=30)
    assert lengths(queue.take(now=30)) == [20, 20], "the token budget is used up"


def test_more_than_fits_is_refused_whole() -> None:
    queue = BatchQueue[str, None](LIMITS)
    queue.add([item(1) for _ in range(10)], now=0)
    with pytest.raises(QueueFullError):
        queue.add([item(1) for _ in range(3)], now=0)
    with pytest.raises(QueueFullError):
        queue.add([item(141)], now=0)
    assert len(queue) == queue.tokens == 10
    queue.add([item(1), item(139)], now=0)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda found: sum(found) <= 150),
    st.lists(st.integers(1, 12), min_size=1, max_size=12),
)
def test_nothing_starves(waiting: list[int], newcomers: list[int]) -> None:
    """However many fitting newcomers arrive, the k-th sentence is out after at most k batches."""
    queue = BatchQueue[str, None](LIMITS)
    first = [item(length, key="ab"[index % 2]) for index, length in enumerate(waiting)]
    queue.add(first, now=0)
    taken: list[Item[str, None]] = []
    for turn, _ in enumerate(first, start=1):
        taken += queue.take(now=turn)
        assert set(first[:turn]) <= set(taken)
        for length in newcomers:
            if len(queue) < 12 and queue.tokens + length <= 150:
                queue.add([item(length)], now=turn)


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of arrivals, cancellations, expiries and batches, beside a plain list of who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue: BatchQueue[str, None] = BatchQueue(limits(max_queue_delay=2.0))
        self.waiting: list[Item[str, None]] = []

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        arrivals=st.lists(
            st.tuples(st.integers(1, 50), st.sampled_from("ab"), st.none() | st.floats(0, 5)), min_size=1, max_size=5
        )
    )
    def arrive(self, arrivals: list[tuple[int, str, float | None]]) -> None:
        items = [item(length, key, None if ttl is None else self.now + ttl) for length, key, ttl in arrivals]
        everything = [*self.waiting, *items]
        fits = len(everything) <= 12 and sum(one.length for one in everything) <= 150
        try:
            self.queue.add(items, self.now)
        except QueueFullError:
            assert not fits
        else:
            assert fits
            self.waiting = everything

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        victim = data.draw(st.sampled_from(self.waiting))
        self.queue.discard([victim, item(1)])  # one that does not wait is no fault
        self.waiting.remove(victim)

    @rule()
    def take(self) -> None:
        expired = [one for one in self.waiting if one.deadline is not None and one.deadline <= self.now]
        assert self.queue.expire(self.now) == expired
        self.waiting = [one for one in self.waiting if one not in expired]
        due = self.queue.due()
        batch = self.queue.take(self.now)
        if not batch:
            assert due is None or self.now < due
            return
        assert batch[0] is self.waiting[0]
        assert len({id(one) for one in batch}) == len(batch) <= LIMITS.max_batch_size
        assert {one.key for one in batch} == {self.waiting[0].key}
        assert len(batch) == 1 or padded(batch) <= LIMITS.max_batch_tokens
        assert all(one in self.waiting for one in batch)
        self.waiting = [one for one in self.waiting if one not in batch]

    @invariant()
    def the_queue_holds_who_waits(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.tokens == sum(one.length for one in self.waiting)

    def teardown(self) -> None:
        assert self.queue.clear() == self.waiting
        assert len(self.queue) == self.queue.tokens == 0


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueueMachine = QueueMachine.TestCase
