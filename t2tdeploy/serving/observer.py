"""What a scheduler tells about its work, for metrics and statistics.

`Scheduler` (serving/scheduler.py) calls the methods of a `BatchObserver`, each of its own model, all on the event
loop's thread: `admitted` and `refused` from `Scheduler.translate`, `dropped` when waiting sentences leave the queue
without being run, `batch_done` after every batch. Who subscribes passes an observer to the scheduler when it is made,
or calls `Scheduler.subscribe` later; several may, see `Observers`. An observer must be quick and must not raise: what
it raises is logged, and the scheduler goes on.

What only needs a number now reads `Scheduler.state()`; what needs sums and histograms of one model keeps a
`BatchStatistics`, which every scheduler has one of (`Scheduler.statistics`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

logger = logging.getLogger("t2tdeploy.serving")

Dropped = Literal["cancelled", "deadline", "stopped"]
"""Why a waiting sentence was not run: its request ended, its deadline passed, the scheduler stopped."""

Outcome = Literal["ok", "failed", "split", "stopped"]
"""How a batch ended: with answers; with an error of the graph; with one, but its sentences run again in smaller
batches; stopped because nobody waited for it any more."""

Refusal = Literal["queue_full", "deadline"]
"""Why a request was not queued: no room; its deadline had passed already."""


@dataclass(frozen=True)
class BatchReport:
    """One batch that was run.

    Args:
        sentences: its rows.
        tokens: source and prefix tokens of its rows, without padding.
        padded_tokens: sentences x the longest of them: what was computed.
        cost: sentences x the dearest of them, in the tokens of `BatchLimits.max_batch_tokens`.
        queue_seconds: from arrival to the start of the batch, one for each row.
        compute_seconds: from the start of the batch to its end; every row took as long.
        finished: seconds on the clock of the event loop.
    """

    sentences: int
    tokens: int
    padded_tokens: int
    cost: int
    queue_seconds: tuple[float, ...]
    compute_seconds: float
    outcome: Outcome
    finished: float

    @property
    def padded_share(self) -> float:
        """Of the tokens computed, those that were padding."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


class BatchObserver(Protocol):
    """Who wants to know. See the module for who calls what, and on which thread."""

    def admitted(self, sentences: int, tokens: int, priority: int) -> None:
        """Sentences of one request were queued."""

    def refused(self, sentences: int, reason: Refusal) -> None:
        """Sentences of one request were not queued."""

    def dropped(self, sentences: int, reason: Dropped) -> None:
        """Sentences left the queue without being run."""

    def batch_done(self, report: BatchReport) -> None:
        """A batch ended."""


class SilentObserver:
    """Ignores everything; a base for observers that want one of the calls."""

    def admitted(self, sentences: int, tokens: int, priority: int) -> None:
        """See BatchObserver."""

    def refused(self, sentences: int, reason: Refusal) -> None:
        """See BatchObserver."""

    def dropped(self, sentences: int, reason: Dropped) -> None:
        """See BatchObserver."""

    def batch_done(self, report: BatchReport) -> None:
        """See BatchObserver."""


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Iterable[BatchObserver]) -> None:
        self._observers = list(observers)

    def add(self, observer: BatchObserver) -> None:
        """Tells `observer` too what happens from now on."""
        self._observers.append(observer)

    def admitted(self, sentences: int, tokens: int, priority: int) -> None:
        """See BatchObserver."""
        self._tell(lambda observer: observer.admitted(sentences, tokens, priority))

    def refused(self, sentences: int, reason: Refusal) -> None:
        """See BatchObserver."""
        self._tell(lambda observer: observer.refused(sentences, reason))

    def dropped(self, sentences: int, reason: Dropped) -> None:
        """See BatchObserver; nobody is told of none."""
        if sentences:
            self._tell(lambda observer: observer.dropped(sentences, reason))

    def batch_done(self, report: BatchReport) -> None:
        """See BatchObserver."""
        self._tell(lambda observer: observer.batch_done(report))

    def _tell(self, what: Callable[[BatchObserver], None]) -> None:
        for observer in self._observers:
            try:
                what(observer)
            except Exception:  # what is told must not hurt what is done
                logger.exception("%s failed", type(observer).__name__)


@dataclass(frozen=True)
class SchedulerState:
    """A scheduler at this moment.

    Args:
        waiting_sentences, waiting_tokens: in the queue; tokens without padding.
        running_batches, running_sentences: being computed.
        workers: batches that may run at once.
    """

    waiting_sentences: int
    waiting_tokens: int
    running_batches: int
    running_sentences: int
    workers: int


@dataclass
class SizeStatistics:
    """Batches of one size: how many, and the sum of their compute times."""

    count: int = 0
    compute_ns: int = 0


@dataclass
class BatchStatistics(SilentObserver):
    """Sums over the life of one model, in the words of Triton's ModelStatistics: an inference is a sentence, an
    execution a batch. Failed sentences are counted apart, batches that were stopped or split not at all.

    Args:
        inference_count: sentences that were translated.
        execution_count: batches that translated them.
        queue_ns, compute_ns: sums over these sentences; each waited and was computed for as long as its batch was.
        failed_count, failed_ns: sentences whose batch failed, and the sum of queue and compute of each.
        dropped_sentences: that left the queue without being run, by reason.
        refused_sentences: that were not queued, by reason.
        sizes: batches that ended well, by sentences.
        last_inference_ms: when the last batch ended well, in milliseconds since 1970; 0: never.
    """

    inference_count: int = 0
    execution_count: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    failed_count: int = 0
    failed_ns: int = 0
    dropped_sentences: dict[Dropped, int] = field(default_factory=dict)
    refused_sentences: dict[Refusal, int] = field(default_factory=dict)
    sizes: dict[int, SizeStatistics] = field(default_factory=dict)
    last_inference_ms: int = 0

    def refused(self, sentences: int, reason: Refusal) -> None:
        """Counts them."""
        self.refused_sentences[reason] = self.refused_sentences.get(reason, 0) + sentences

    def dropped(self, sentences: int, reason: Dropped) -> None:
        """Counts them."""
        self.dropped_sentences[reason] = self.dropped_sentences.get(reason, 0) + sentences

    def batch_done(self, report: BatchReport) -> None:
        """Adds the batch to the sums."""
        compute, queue = _nanoseconds(report.compute_seconds), _nanoseconds(sum(report.queue_seconds))
        if report.outcome == "failed":
            self.failed_count += report.sentences
            self.failed_ns += queue + compute * report.sentences
        if report.outcome != "ok":
            return
        self.inference_count += report.sentences
        self.execution_count += 1
        self.queue_ns += queue
        self.compute_ns += compute * report.sentences
        size = self.sizes.setdefault(report.sentences, SizeStatistics())
        size.count += 1
        size.compute_ns += compute
        self.last_inference_ms = time.time_ns() // 1_000_000


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
