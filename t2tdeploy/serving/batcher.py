"""Which waiting sentences run together: length-aware dynamic batching, as pure bookkeeping.

**Who goes first.** Sentences stand in one line, in the order of `enqueued - priority * priority_seconds`: a level of
priority is a head start of so many seconds. So a sentence is only ever overtaken by those of a higher priority that
came at most (levels between them) x `priority_seconds` after it, and whatever arrives, nothing starves.

**A batch.** A free worker calls `take`. The rules, in this order:

1. The first in line leads: it is always in the batch.
2. Only sentences with its key (model and decode options) join it.
3. Those closest to its length join first; of two as close the shorter, of equally long ones the first in line. Towards
   longer and towards shorter ones it ends at the first that does not fit: a batch keeps within `max_batch_size`
   sentences and `max_batch_tokens`, and is at least half real tokens. Every sentence of a batch costs as much as the
   dearest, because all are padded to the longest.
4. With `max_queue_delay` = 0, the default, a batch may be taken at once: batches form by themselves while workers are
   busy (the scheduler may pause for milliseconds while batches have company, see `Pace.pause`). With a longer delay a
   free worker waits until the batch around the first in line of some key is full, somebody has waited that long, or a
   deadline is near (`lead`). That one leads then, if the first in line still has time.
5. Where it is known how long tokens take, a batch ends with what is done well before the deadline of its leader: full
   batches of a slow model could take longer than anybody waits.

**Deadlines.** `expire` drops what nobody can use any more, before it runs, and what the next batch could hardly finish.
What a request has to expect of the queue is for pace.py to guess.

Nothing here locks, sleeps or reads a clock: the caller passes the time, which never goes back, and calls from one
thread. With n sentences waiting, adding or removing one costs O(log n), and `take` O(the batch), however many wait.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

MIN_PRIORITY, MAX_PRIORITY = -2, 2

_PATIENT_BATCHES = 4
_MIN_REAL_SHARE = 0.5
"""Of the tokens of a batch, padding included: a long sentence does not drag many short ones to its length."""
IN_TIME = 0.6
"""Of the time that a batch's leader has left, so much at most is what the batch is expected to take; the rest is for
batches that are slower than expected, and for those who wait meanwhile."""


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of the queue and of its batches.

    Args:
        max_batch_size: sentences of a batch.
        max_batch_tokens: cost of a batch; a sentence that costs more runs alone.
        max_queue_delay: seconds that a free worker waits for a fuller batch.
        max_queue_sentences: waiting sentences.
        max_queue_tokens: their tokens, without padding.
        priority_seconds: head start of a level of priority.
    """

    max_batch_size: int
    max_batch_tokens: int
    max_queue_delay: float
    max_queue_sentences: int
    max_queue_tokens: int
    priority_seconds: float = 5.0

    @property
    def most_patient(self) -> int:
        """Waiting sentences of those who wait for room instead of being refused: enough for the next batches. The rest
        of the queue is for the others, however many wait for room: these would take every place that becomes free."""
        return max(1, min(_PATIENT_BATCHES * self.max_batch_size, self.max_queue_sentences // 4))


@dataclass(eq=False, slots=True)
class Item(Generic[K, T]):
    """A waiting sentence; equal only to itself.

    Args:
        content: the caller's own; not looked at.
        length: in tokens; similar ones run together.
        cost: of the memory it takes while it runs, in tokens; grows with the length.
        key: sentences with different keys never share a batch.
        deadline: time after which it is no longer wanted.
        priority: MIN_PRIORITY to MAX_PRIORITY; higher goes first.
        patient: whether it waited for room, or would have.
        enqueued: when it came; set by `BatchQueue.add`.
        place: its place in line, lower goes first; set by `BatchQueue.add`.
    """

    content: T
    length: int
    cost: int
    key: K
    deadline: float | None = None
    priority: int = 0
    patient: bool = False
    enqueued: float = field(default=0.0, init=False)
    place: tuple[float, int] = field(default=(0.0, 0), init=False)


_PLACE: Callable[[Item[Any, Any]], tuple[float, int]] = attrgetter("place")


class QueueFullError(Exception):
    """The queue cannot take the items now."""


class BatchQueue(Generic[K, T]):
    """Sentences that wait for a worker."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.tokens = 0
        self._patient = 0
        self._patient_tokens = 0
        self._count = itertools.count()
        self._waiting: dict[Item[K, T], None] = {}  # a dict keeps the order of arrival and removes in constant time
        self._lines: dict[int, dict[Item[K, T], None]] = {}  # by priority; within one, the order of arrival is the line
        self._line_tokens: Counter[int] = Counter()
        self._groups: dict[K, _Group[K, T]] = {}
        self._deadlines = _Timers[K, T](self._waiting)
        self._changed: dict[K, None] = {}  # keys whose batch may have become full since the last look

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, count: int, tokens: int = 0) -> bool:
        """Whether `count` more sentences of `tokens` together may wait."""
        limits = self.limits
        return len(self) + count <= limits.max_queue_sentences and self.tokens + tokens <= limits.max_queue_tokens

    def has_room_for_patient(self, count: int, tokens: int) -> bool:
        """`has_room`, of sentences that will wait for it: only a part of the queue is theirs."""
        few = self._patient + count <= self.limits.most_patient
        few = few and self._patient_tokens + tokens <= self.limits.max_queue_tokens // 4
        return self.has_room(count, tokens) and (few or not self._patient)

    def tokens_ahead(self, priority: int, now: float) -> int:
        """Tokens of those who would stand in line before a sentence of `priority` that came now.

        Takes time for each sentence of a lower priority that has waited for longer than its head start.
        """

        def of(line: int) -> int:
            if line >= priority:
                return self._line_tokens[line]
            since = now - (priority - line) * self.limits.priority_seconds
            passed = itertools.takewhile(lambda item: item.enqueued <= since, self._lines[line])
            return sum(item.length for item in passed)

        return sum(map(of, self._lines))

    def add(self, items: Sequence[Item[K, T]], now: float) -> None:
        """Puts all `items` into the queue, or none.

        Raises:
            QueueFullError: they do not fit.
        """
        tokens = sum(item.length for item in items)
        if not self.has_room(len(items), tokens):
            raise QueueFullError
        self.tokens += tokens
        for item in items:
            item.enqueued = now
            item.place = (now - item.priority * self.limits.priority_seconds, next(self._count))
            self._waiting[item] = None
            self._lines.setdefault(item.priority, {})[item] = None
            self._line_tokens[item.priority] += item.length
            if item.patient:
                self._patient, self._patient_tokens = self._patient + 1, self._patient_tokens + item.length
            self._groups.setdefault(item.key, _Group()).add(item)
            if self.limits.max_queue_delay > 0:
                self._changed[item.key] = None
        for deadline, same in itertools.groupby(items, key=attrgetter("deadline")):
            if deadline is not None:
                self._deadlines.add(deadline, list(same))

    def discard(self, items: Iterable[Item[K, T]]) -> int:
        """Removes those of `items` that still wait: they were cancelled. Returns how many these are."""
        before = len(self)
        for item in items:
            if item in self._waiting:
                self._remove(item)
        return before - len(self)

    def expire(self, now: float, reach: float = 0.0) -> list[Item[K, T]]:
        """Removes and returns the items whose deadline has passed, the earliest deadline first.

        Args:
            reach: those too whose deadline passes within so many seconds, unless nobody would be left: an estimate of
                how long a batch takes must not keep every batch from being run.
        """
        expired = self._deadlines.until(now)
        for item in expired:
            self._remove(item)
        hopeless = self._deadlines.until(now + reach)
        if len(hopeless) == len(self):
            for item in hopeless:
                assert item.deadline is not None
                self._deadlines.add(item.deadline, [item])
            return expired
        for item in hopeless:
            self._remove(item)
        return expired + hopeless

    def clear(self) -> list[Item[K, T]]:
        """Removes and returns everything."""
        items = list(self._waiting)
        self.discard(items)
        return items

    def ready(self, now: float, lead: float = 0.0) -> bool:
        """Whether `take` has a batch for a free worker."""
        return self._leader(now, lead) is not None or self._full_batch() is not None

    def take(self, now: float, token_seconds: float = 0.0, lead: float = 0.0) -> list[Item[K, T]]:
        """Removes and returns the next batch for a free worker; empty if none is due yet. Call `expire` first.

        Args:
            token_seconds: that a token of a batch takes; 0: not known.
            lead: seconds before its deadline that a sentence should be taken, to be done in time. The caller learns
                it from batch to batch, so it is asked for every time.
        """
        leader = self._leader(now, lead) or next(iter(self._full_batch() or []), None)
        if leader is None:
            return []
        most_tokens = math.inf
        if leader.deadline is not None and token_seconds:
            most_tokens = IN_TIME * (leader.deadline - now) / token_seconds
        batch = self._select(leader, most_tokens)[0]
        self.discard(batch)
        return batch

    def due(self, lead: float = 0.0) -> float | None:
        """When a free worker should take, if nothing else happens until then; None: nothing waits."""
        if not self._waiting:
            return None
        due = next(iter(self._waiting)).enqueued + self.limits.max_queue_delay
        hurried = self._deadlines.first()
        return min(due, hurried[0] - lead) if hurried else due

    def _leader(self, now: float, lead: float) -> Item[K, T] | None:
        """Whose batch is due, however small it is."""
        if not self._waiting:
            return None
        first = min((next(iter(line)) for line in self._lines.values()), key=_PLACE)
        delay = self.limits.max_queue_delay
        if now >= first.enqueued + delay:
            return first
        hurried = self._deadlines.first()
        if hurried and hurried[0] - lead <= now:
            return hurried[1]
        return first if now >= next(iter(self._waiting)).enqueued + delay else None

    def _full_batch(self) -> list[Item[K, T]] | None:
        """A batch that has no room for more, of the key that has had one for the longest."""
        for key in list(self._changed):
            batch, full = self._select(self._groups[key].first())
            if full:
                return batch
            del self._changed[key]
        return None

    def _select(self, leader: Item[K, T], most_tokens: float = math.inf) -> tuple[list[Item[K, T]], bool]:
        """The batch around `leader`, and whether it has no room for more."""
        most, budget = self.limits.max_batch_size, self.limits.max_batch_tokens
        batch, longest, dearest, real = [leader], leader.length, leader.cost, leader.length
        group = self._groups[leader.key]
        shorter, longer = group.shorter(leader), group.longer(leader)
        down, up = next(shorter, None), next(longer, None)
        while len(batch) < most and (item := _closer(leader.length, down, up)):
            count, longest_then, dearest_then = len(batch) + 1, max(longest, item.length), max(dearest, item.cost)
            tokens = real + item.length
            fits = count * dearest_then <= budget and _MIN_REAL_SHARE * count * longest_then <= tokens <= most_tokens
            if fits:
                batch.append(item)
                longest, dearest, real = longest_then, dearest_then, tokens
            if item is down:
                down = next(shorter, None) if fits else None
            else:
                up = next(longer, None) if fits else None
        return batch, len(batch) == most or (len(batch) + 1) * dearest > budget

    def _remove(self, item: Item[K, T]) -> None:
        self.tokens -= item.length
        del self._waiting[item]
        self._line_tokens[item.priority] -= item.length
        if item.patient:
            self._patient, self._patient_tokens = self._patient - 1, self._patient_tokens - item.length
        line = self._lines[item.priority]
        del line[item]
        if not line:
            del self._lines[item.priority]
        group = self._groups[item.key]
        group.remove(item)
        if not group.lengths:
            del self._groups[item.key]
            self._changed.pop(item.key, None)
        elif self.limits.max_queue_delay > 0:
            self._changed[item.key] = None


def _closer(length: int, down: Item[K, T] | None, up: Item[K, T] | None) -> Item[K, T] | None:
    """The one whose length is closer; of two as close, the shorter."""
    if down is None or up is None:
        return up or down
    return down if length - down.length <= up.length - length else up


class _Group(Generic[K, T]):
    """The waiting sentences of one key: those of each length in line."""

    def __init__(self) -> None:
        self.lengths: list[int] = []  # sorted
        self._of_length: dict[int, list[Item[K, T]]] = {}

    def add(self, item: Item[K, T]) -> None:
        if item.length not in self._of_length:
            self._of_length[item.length] = []
            insort(self.lengths, item.length)
        same = self._of_length[item.length]
        if not same or same[-1].place < item.place:  # as good as always; a search through all would be felt
            same.append(item)
        else:
            insort(same, item, key=_PLACE)

    def remove(self, item: Item[K, T]) -> None:
        same = self._of_length[item.length]
        del same[0 if same[0] is item else bisect_left(same, item.place, key=_PLACE)]
        if not same:
            del self._of_length[item.length]
            del self.lengths[bisect_left(self.lengths, item.length)]

    def first(self) -> Item[K, T]:
        """Who is first in line."""
        return min((same[0] for same in self._of_length.values()), key=_PLACE)

    def shorter(self, leader: Item[K, T]) -> Iterator[Item[K, T]]:
        """Those shorter than `leader`, the longest of them first."""
        for index in range(bisect_left(self.lengths, leader.length) - 1, -1, -1):
            yield from self._of_length[self.lengths[index]]

    def longer(self, leader: Item[K, T]) -> Iterator[Item[K, T]]:
        """The others at least as long as `leader`, the shortest of them first."""
        for index in range(bisect_left(self.lengths, leader.length), len(self.lengths)):
            for item in self._of_length[self.lengths[index]]:
                if item is not leader:
                    yield item


class _Timers(Generic[K, T]):
    """The earliest of many times, each of waiting items: those of a request share theirs, and so an entry. Items that
    wait no longer fall out by themselves."""

    def __init__(self, waiting: dict[Item[K, T], None]) -> None:
        self._waiting = waiting
        self._heap: list[tuple[float, int, list[Item[K, T]]]] = []  # the last item of an entry is the next
        self._count = itertools.count()  # entries with equal times keep their order
        self._size = 0  # items

    def add(self, time: float, items: list[Item[K, T]]) -> None:
        self._size += len(items)
        heapq.heappush(self._heap, (time, next(self._count), items[::-1]))
        if self._size > 2 * len(self._waiting) + 64:
            self._forget()

    def until(self, time: float) -> list[Item[K, T]]:
        """Takes out those of which the time has come, the earliest first."""
        found = []
        while (first := self.first()) and first[0] <= time:
            found.append(self._pop(self._heap[0][2]))
        return found

    def first(self) -> tuple[float, Item[K, T]] | None:
        while self._heap:
            time, _, items = self._heap[0]
            while items:
                if items[-1] in self._waiting:
                    return time, items[-1]
                self._pop(items)
            heapq.heappop(self._heap)
        return None

    def _pop(self, items: list[Item[K, T]]) -> Item[K, T]:
        self._size -= 1
        return items.pop()

    def _forget(self) -> None:
        """Drops the items that wait no longer, wherever they stand."""
        still = [(time, count, [one for one in items if one in self._waiting]) for time, count, items in self._heap]
        self._heap = [entry for entry in still if entry[2]]
        heapq.heapify(self._heap)
        self._size = sum(len(items) for _, _, items in self._heap)
