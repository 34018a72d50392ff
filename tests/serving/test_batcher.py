import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from t2tdeploy.serving.batcher import MAX_PRIORITY, MIN_PRIORITY, BatchLimits, BatchQueue, Item, QueueFullError

LIMITS = BatchLimits(
    max_batch_size=4,
    max_batch_tokens=40,
    max_queue_delay=0.0,
    max_queue_sentences=12,
    max_queue_tokens=150,
    priority_seconds=3.0,
)
PRIORITIES = st.integers(MIN_PRIORITY, MAX_PRIORITY)


def item(length: int, key: str = "a", deadline: float | None = None, **more: object) -> Item[str, None]:
    return Item(None, length, **{"cost": length, "key": key, "deadline": deadline, **more})  # type: ignore[arg-type]


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


@pytest.mark.parametrize(("deadline", "count"), [(None, 4), (100.0, 4), (10.0, 3), (7.0, 2), (0.5, 1)])
def test_a_batch_is_done_well_before_its_leader_is_out_of_time(deadline: float | None, count: int) -> None:
    """At two seconds a sentence, three take 0.6 of ten seconds. The leader goes in any case."""
    queue = BatchQueue[str, None](LIMITS)
    queue.add([item(4, deadline=deadline) for _ in range(6)], now=0)
    assert len(queue.take(now=0, token_seconds=0.5)) == count


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


@settings(max_examples=100)
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


def test_a_higher_priority_goes_before_what_came_at_most_its_head_start_earlier() -> None:
    queue = BatchQueue[str, None](LIMITS)
    old, new, urgent = item(30), item(30), item(30, priority=1)
    queue.add([old], now=0)
    queue.add([new], now=2)
    queue.add([urgent], now=4)
    assert [queue.take(now=4) for _ in range(3)] == [[old], [urgent], [new]]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 9), PRIORITIES, st.integers(0, 3)), max_size=12),
    st.integers(0, 12),
    PRIORITIES,
)
@example([(2, 0, 0), (3, 2, 3)], 0, 1)  # the first came its head start earlier, to the second
def test_ahead_is_what_would_be_taken_before(came: list[tuple[int, int, int]], gone: int, priority: int) -> None:
    """Of one after another, some of which have left, each so many seconds after the one before."""
    queue, now, waiting = BatchQueue[str, None](limits(max_batch_size=1, max_queue_sentences=13)), 0, []
    for length, of, later in came:
        now += later
        waiting.append(item(length, priority=of))
        queue.add(waiting[-1:], now)
    queue.discard(waiting[:gone])
    ahead = queue.tokens_ahead(priority, now)
    newest = item(1, priority=priority)
    queue.add([newest], now)
    before = 0
    while (taken := queue.take(now)) != [newest]:
        before += taken[0].length
    assert ahead == before


def test_of_two_as_close_the_shorter_joins() -> None:
    queue = BatchQueue[str, None](limits(max_batch_size=2))
    queue.add([item(5), item(6), item(4)], now=0)
    assert lengths(queue.take(now=0)) == [4, 5]


def test_among_equally_long_ones_the_first_in_line_joins_first() -> None:
    queue = BatchQueue[str, None](limits(max_batch_size=2))
    first, bulk, urgent = item(5, priority=2), item(5, priority=-1), item(5, priority=1)
    queue.add([bulk, urgent, first], now=0)
    assert queue.take(now=0) == [first, urgent]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 40), PRIORITIES), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 40), PRIORITIES), min_size=1, max_size=5),
    st.floats(0.5, 4),
)
def test_nothing_of_any_priority_starves(
    waiting: list[tuple[int, int]], newcomers: list[tuple[int, int]], pause: float
) -> None:
    """Whatever arrives: once nobody can come before it any more, it is out after as many batches as stand before it."""
    queue = BatchQueue[str, None](limits(max_queue_sentences=1000, max_queue_tokens=100_000))
    first = [item(length, priority=priority, key="ab"[length % 2]) for length, priority in waiting]
    queue.add(first, now=0)
    here, now = list(first), 0.0
    closed = (MAX_PRIORITY - MIN_PRIORITY) * LIMITS.priority_seconds
    left: dict[Item[str, None], int] = {}
    while any(one in here for one in first):
        if now > closed and not left:
            left = {one: sum(other.place <= one.place for other in here) for one in first if one in here}
        batch = queue.take(now)
        here = [one for one in here if one not in batch]
        for one in set(left) - set(batch):
            left[one] -= 1
            assert one not in here or left[one] > 0
        arrivals = [item(length, priority=priority) for length, priority in newcomers]
        now += pause
        queue.add(arrivals, now)
        here += arrivals


def test_a_near_deadline_is_not_left_waiting_for_a_fuller_batch() -> None:
    queue = BatchQueue[str, None](limits(max_queue_delay=5.0))
    patient, hurried = item(3, key="a"), item(3, key="b", deadline=13.0)
    queue.add([patient], now=9)
    queue.add([hurried], now=10)
    assert queue.due(lead=1) == 12
    assert not queue.ready(now=11.9, lead=1)
    assert queue.ready(now=11.9, lead=2), "batches became slower while it waited"
    assert queue.take(now=12, lead=1) == [hurried], "the first in line still has time"
    assert queue.due() == 14
    assert queue.take(now=14) == [patient]


def test_a_full_batch_of_any_key_does_not_wait() -> None:
    queue = BatchQueue[str, None](limits(max_queue_delay=5.0))
    queue.add([item(3, key="a")], now=0)
    queue.add([item(3, key="b") for _ in range(3)], now=1)
    assert not queue.ready(now=1)
    queue.add([item(3, key="b")], now=1)
    assert [one.key for one in queue.take(now=1)] == ["b"] * 4
    assert queue.take(now=1) == []


def test_a_full_batch_is_done_well_before_its_leader_is_out_of_time_too() -> None:
    queue = BatchQueue[str, None](limits(max_queue_delay=5.0))
    queue.add([item(4, deadline=7.0) for _ in range(4)], now=0)
    assert len(queue.take(now=0, token_seconds=0.5)) == 2


def test_an_estimate_leaves_somebody_to_run() -> None:
    """Rows of one request have one deadline; those of which an estimate says that they come too late keep it."""
    queue = BatchQueue[str, None](limits())
    late, later = [item(3, deadline=10.0) for _ in range(3)], [item(3, deadline=11.0) for _ in range(2)]
    queue.add(late, now=0)
    assert queue.expire(now=5, reach=8) == []
    queue.add(later, now=5)
    assert queue.expire(now=5, reach=8) == []
    queue.discard(late[1:2])
    assert queue.expire(now=5, reach=5) == [late[0], late[2]]
    assert queue.expire(now=11, reach=0) == later
    assert queue.expire(now=12) == []


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    """Far deadlines of sentences that were taken long ago are not kept."""
    queue = BatchQueue[str, None](limits(max_queue_delay=1.0))
    for second in range(2000):
        queue.add([item(1 + second % 7, f"key {second}", deadline=1e9) for _ in range(3)], now=second)
        while queue.take(now=second + 1):
            pass
    assert sum(len(items) for _, _, items in queue._deadlines._heap) < 200
    assert not queue._groups
    assert not queue._lines
    assert not queue._changed


def leader(waiting: list[Item[str, None]], now: float, delay: float, lead: float) -> Item[str, None] | None:
    """Rules 1 and 4, but for full batches, as an obvious search."""
    if not waiting:
        return None
    first = min(waiting, key=lambda one: one.place)
    if first.enqueued + delay <= now:
        return first
    hurried = [(one.deadline, one.place[1], one) for one in waiting if one.deadline is not None]
    if hurried and min(hurried)[0] - lead <= now:
        return min(hurried)[2]
    return first if min(one.enqueued for one in waiting) + delay <= now else None


def selection(waiting: list[Item[str, None]], leading: Item[str, None]) -> list[Item[str, None]]:
    """Rules 1 to 3 as an obvious search."""

    def closeness(one: Item[str, None]) -> tuple[int, bool, tuple[float, int]]:
        return abs(one.length - leading.length), one.length > leading.length, one.place

    batch, ended = [leading], set()
    for one in sorted((one for one in waiting if one.key == leading.key and one is not leading), key=closeness):
        longer, wider = one.length >= leading.length, [*batch, one]
        half_real = sum(each.length for each in wider) >= padded(wider) / 2
        if longer in ended or len(batch) == LIMITS.max_batch_size:
            continue
        if half_real and len(wider) * max(each.cost for each in wider) <= LIMITS.max_batch_tokens:
            batch = wider
        else:
            ended.add(longer)
    return batch


def full(batch: list[Item[str, None]]) -> bool:
    more = (len(batch) + 1) * max(one.cost for one in batch) > LIMITS.max_batch_tokens
    return more or len(batch) == LIMITS.max_batch_size


ARRIVALS = st.lists(
    st.tuples(st.integers(1, 50), st.sampled_from("ab"), PRIORITIES, st.none() | st.floats(0, 5)),
    min_size=1,
    max_size=5,
)


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of arrivals, cancellations, expiries and batches, beside a plain list of who waits."""

    @initialize(delay=st.sampled_from([0.0, 2.0]))
    def make(self, delay: float) -> None:
        self.now, self.delay = 0.0, delay
        self.queue: BatchQueue[str, None] = BatchQueue(limits(max_queue_delay=delay))
        self.waiting: list[Item[str, None]] = []

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(arrivals=ARRIVALS, patient=st.booleans())
    def arrive(self, arrivals: list[tuple[int, str, int, float | None]], patient: bool) -> None:
        items = [
            item(length, key, None if ttl is None else self.now + ttl, priority=priority, patient=patient)
            for length, key, priority, ttl in arrivals
        ]
        everything = [*self.waiting, *items]
        fits = len(everything) <= 12 and sum(one.length for one in everything) <= 150
        tokens = sum(one.length for one in items)
        assert self.queue.has_room(len(items), tokens) == fits
        if patient:
            theirs = [one for one in everything if one.patient]
            few = len(theirs) <= 12 // 4 and sum(one.length for one in theirs) <= 150 // 4
            fits = fits and (few or len(theirs) == len(items))
            assert self.queue.has_room_for_patient(len(items), tokens) == fits
            if not fits:
                return
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
    def expire(self) -> None:
        expired = [one for one in self.waiting if one.deadline is not None and one.deadline <= self.now]
        assert set(self.queue.expire(self.now)) == set(expired)
        self.waiting = [one for one in self.waiting if one not in expired]

    @rule(lead=st.sampled_from([0.0, 1.0, math.inf]))
    def take(self, lead: float) -> None:
        due, ready = self.queue.due(lead), self.queue.ready(self.now, lead)
        leading = leader(self.waiting, self.now, self.delay, lead)
        heads = [min((one for one in self.waiting if one.key == key), key=lambda one: one.place) for key in self.keys()]
        batches = [selection(self.waiting, leading)] if leading else []
        batches = batches or [batch for head in heads if full(batch := selection(self.waiting, head))]
        batch = self.queue.take(self.now, lead=lead)
        assert ready == bool(batch)
        assert batch in batches if batches else not batch
        assert batch or due is None or self.now < due
        assert len({id(one) for one in batch}) == len(batch) <= LIMITS.max_batch_size
        assert len({one.key for one in batch}) <= 1
        assert len(batch) <= 1 or padded(batch) <= LIMITS.max_batch_tokens
        self.waiting = [one for one in self.waiting if one not in batch]

    def keys(self) -> list[str]:
        return sorted({one.key for one in self.waiting})

    @invariant()
    def the_queue_holds_who_waits(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.tokens == sum(one.length for one in self.waiting)

    def teardown(self) -> None:
        assert self.queue.clear() == self.waiting
        assert len(self.queue) == self.queue.tokens == 0


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestQueueMachine = QueueMachine.TestCase
