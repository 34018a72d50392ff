"""Which waiting sentences run together: length-aware dynamic batching, as pure bookkeeping.

A free worker calls `take`. The rules, in this order:

1. The oldest waiting sentence is always in the batch, so nothing starves.
2. Only sentences with its key (model and decode options) join it.
3. Those closest to its length join first, ties in order of arrival, while the batch keeps within `max_batch_size`
   sentences and `max_batch_tokens`, and is at least half real tokens. Every sentence of a batch costs as much as the
   dearest, because all are padded to the longest.
4. With `max_queue_delay` = 0, the default, a free worker takes at once: batches form by themselves while workers are
   busy, and a lone sentence never waits. With a longer delay a free worker waits until the batch is full or its oldest
   sentence has waited that long: larger batches for a later answer.

Nothing here locks, sleeps or reads a clock: the caller passes the time, and calls from one thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_MIN_REAL_SHARE = 0.5
"""Of the tokens of a batch, padding included: a long sentence does not drag many short ones to its length."""


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of the queue and of its batches.

    Args:
        max_batch_size: sentences of a batch.
        max_batch_tokens: cost of a batch; a sentence that costs more runs alone.
        max_queue_delay: seconds that a free worker waits for a fuller batch.
        max_queue_sentences: waiting sentences.
        max_queue_tokens: their tokens, without padding.
    """

    max_batch_size: int
    max_batch_tokens: int
    max_queue_delay: float
    max_queue_sentences: int
    max_queue_tokens: int


@dataclass(eq=False)
class Item(Generic[K, T]):
    """A waiting sentence; equal only to itself.

    Args:
        content: the caller's own; not looked at.
        length: in tokens; similar ones run together.
        cost: of the memory it takes while it runs, in tokens; grows with the length.
        key: sentences with different keys never share a batch.
        deadline: time after which it is no longer wanted.
        enqueued: when it came; set by `BatchQueue.add`.
    """

    content: T
    length: int
    cost: int
    key: K
    deadline: float | None = None
    enqueued: float = field(default=0.0, init=False)


class QueueFullError(Exception):
    """The queue cannot take the items now."""


class BatchQueue(Generic[K, T]):
    """Sentences that wait for a worker, oldest first."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.tokens = 0
        self._items: dict[Item[K, T], None] = {}  # a dict keeps the order of arrival and removes in constant time

    def __len__(self) -> int:
        return len(self._items)

    def has_room(self, count: int) -> bool:
        """Whether `count` more sentences may wait, their tokens aside."""
        return len(self) + count <= self.limits.max_queue_sentences

    def add(self, items: Sequence[Item[K, T]], now: float) -> None:
        """Puts all `items` at the end of the queue, or none.

        Raises:
            QueueFullError: they do not fit.
        """
        tokens = sum(item.length for item in items)
        if not self.has_room(len(items)) or self.tokens + tokens > self.limits.max_queue_tokens:
            raise QueueFullError
        self.tokens += tokens
        for item in items:
            item.enqueued = now
            self._items[item] = None

    def discard(self, items: Iterable[Item[K, T]]) -> None:
        """Removes those of `items` that still wait: they were cancelled."""
        for item in items:
            if item in self._items:
                self._remove(item)

    def expire(self, now: float) -> list[Item[K, T]]:
        """Removes and returns the items whose deadline has passed."""
        expired = [item for item in self._items if item.deadline is not None and item.deadline <= now]
        self.discard(expired)
        return expired

    def clear(self) -> list[Item[K, T]]:
        """Removes and returns everything."""
        items = list(self._items)
        self.discard(items)
        return items

    def take(self, now: float) -> list[Item[K, T]]:
        """Removes and returns the next batch for a free worker; empty if none is due yet. Call `expire` first."""
        if not self._items:
            return []
        batch, full = self._select()
        if not full and now < self._oldest().enqueued + self.limits.max_queue_delay:
            return []
        self.discard(batch)
        return batch

    def due(self) -> float | None:
        """When a free worker should take, if nothing else happens until then; None: nothing waits."""
        return self._oldest().enqueued + self.limits.max_queue_delay if self._items else None

    def _oldest(self) -> Item[K, T]:
        return next(iter(self._items))

    def _select(self) -> tuple[list[Item[K, T]], bool]:
        """The batch around the oldest item, and whether it has no room for more."""
        oldest = self._oldest()
        others = (item for item in itertools.islice(self._items, 1, None) if item.key == oldest.key)
        batch, longest, dearest, real = [oldest], oldest.length, oldest.cost, oldest.length
        for item in sorted(others, key=lambda item: abs(item.length - oldest.length)):
            if len(batch) == self.limits.max_batch_size:
                break
            count = len(batch) + 1
            if count * max(dearest, item.cost) > self.limits.max_batch_tokens:
                continue
            if real + item.length < _MIN_REAL_SHARE * count * max(longest, item.length):
                continue
            batch.append(item)
            longest, dearest, real = max(longest, item.length), max(dearest, item.cost), real + item.length
        no_room = (len(batch) + 1) * dearest > self.limits.max_batch_tokens
        return batch, no_room or len(batch) == self.limits.max_batch_size

    def _remove(self, item: Item[K, T]) -> None:
        del self._items[item]
        self.tokens -= item.length
