"""Carries sentences from requests to worker threads and answers back. Lives on one asyncio event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from t2tdeploy.runtime import Interrupt, SearchStoppedError
from t2tdeploy.sentences import Sentence
from t2tdeploy.serving.batcher import BatchLimits, BatchQueue, Item, QueueFullError
from t2tdeploy.translator import Hypothesis, SearchKey, Translator

_MIN_RETRY, _MAX_RETRY = 0.05, 10.0  # seconds
_SMOOTHING = 0.2  # weight of the newest batch in the running mean of seconds per token


class OverloadedError(Exception):
    """The queue is full.

    Args:
        retry_after: seconds until what waits now is done, by the speed of the last batches.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__("the queue is full")


class UnavailableError(Exception):
    """The server is not serving now: it is starting or stopping."""


@dataclass(frozen=True)
class Answer:
    """The hypotheses of a request's sentences, in order.

    Args:
        queue: seconds from acceptance until a worker took the first sentence.
        compute: seconds from then until the last sentence was translated.
    """

    hypotheses: list[list[Hypothesis]]
    queue: float
    compute: float


@dataclass(eq=False)
class _Waiting:
    """A sentence of a request and where its hypotheses go."""

    sentence: Sentence
    future: asyncio.Future[list[Hypothesis]]
    started: float | None = None


@dataclass(eq=False)
class _Run:
    """A batch under way."""

    batch: list[Item[SearchKey, _Waiting]]
    interrupt: Interrupt = field(default_factory=Interrupt)

    def stop_if_unwanted(self) -> None:
        if all(item.content.future.done() for item in self.batch):
            self.interrupt.stop()


class Scheduler:
    """The queue of one model and the workers that empty it.

    Args:
        workers: batches that run at once.
    """

    def __init__(self, translator: Translator, limits: BatchLimits, *, workers: int) -> None:
        self.batches = 0
        self._translator = translator
        self._queue: BatchQueue[SearchKey, _Waiting] = BatchQueue(limits)
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="t2tdeploy-worker")
        self._tasks: list[asyncio.Task[None]] = []
        self._runs: set[_Run] = set()
        self._arrived = asyncio.Event()
        self._seconds_per_token: float | None = None

    def start(self) -> None:
        """Starts the workers on the running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]

    async def stop(self) -> None:
        """Stops the workers; what still waits or runs is answered with UnavailableError."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        waiting = self._queue.clear()
        for item in [*waiting, *(item for run in self._runs for item in run.batch)]:
            _fail(item, UnavailableError("the server stopped before it could answer"))
        for run in self._runs:
            run.interrupt.stop()
        await asyncio.to_thread(self._pool.shutdown)

    def require_room(self, count: int) -> None:
        """Checks that `count` more sentences may wait, before work is spent on them.

        Raises:
            OverloadedError: the queue is full.
        """
        if not self._queue.has_room(count):
            raise OverloadedError(self._retry_after())

    async def translate(self, sentences: Sequence[Sentence], key: SearchKey, *, deadline: float | None) -> Answer:
        """Queues `sentences` and waits for their hypotheses. Cancelling it withdraws them.

        Args:
            deadline: on the clock of the event loop.

        Raises:
            OverloadedError: the queue is full; none was queued.
            TimeoutError: the deadline passed.
            UnavailableError: the scheduler stopped.
            OperationalError: the search failed.
        """
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(sentence, loop.create_future()) for sentence in sentences]
        items = [
            Item(
                one,
                len(one.sentence.ids) + len(one.sentence.prefix),
                key.cost(len(one.sentence.ids), len(one.sentence.prefix)),
                key,
                deadline,
            )
            for one in waiting
        ]
        accepted = loop.time()
        try:
            self._queue.add(items, accepted)
        except QueueFullError:
            raise OverloadedError(self._retry_after()) from None
        self._arrived.set()
        try:
            async with asyncio.timeout_at(deadline):
                hypotheses = await asyncio.gather(*(one.future for one in waiting))
        finally:
            self._withdraw(items)
        started = min(one.started for one in waiting if one.started is not None)
        return Answer(hypotheses, queue=started - accepted, compute=loop.time() - started)

    def _withdraw(self, items: list[Item[SearchKey, _Waiting]]) -> None:
        """Drops what is not done of a request that ended, and stops batches that nobody waits for any more."""
        self._queue.discard(items)
        for item in items:
            item.content.future.cancel()
        for run in self._runs:
            run.stop_if_unwanted()

    def _retry_after(self) -> float:
        seconds = self._queue.tokens * (self._seconds_per_token or 0.0) / self._workers
        return min(max(seconds, _MIN_RETRY), _MAX_RETRY)

    async def _work(self) -> None:
        while True:
            await self._run(await self._next_batch())

    async def _next_batch(self) -> list[Item[SearchKey, _Waiting]]:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            for item in self._queue.expire(now):
                _fail(item, TimeoutError())
            if batch := self._queue.take(now):
                return batch
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._queue.due()):
                    await self._arrived.wait()

    async def _run(self, batch: list[Item[SearchKey, _Waiting]]) -> None:
        loop = asyncio.get_running_loop()
        run, started = _Run(batch), loop.time()
        for item in batch:
            item.content.started = started
        self._runs.add(run)
        try:
            answers = await loop.run_in_executor(self._pool, self._search, run)
        except SearchStoppedError:
            pass  # nobody waits for it any more
        except Exception as error:
            for item in batch:
                _fail(item, error)
        else:
            for item, hypotheses in zip(batch, answers, strict=True):
                if not item.content.future.done():
                    item.content.future.set_result(hypotheses)
            self._learn_speed(loop.time() - started, sum(item.length for item in batch))
        self._runs.discard(run)  # not when cancelled: `stop` still has to answer its sentences
        self.batches += 1

    def _search(self, run: _Run) -> list[list[Hypothesis]]:
        sentences = [item.content.sentence for item in run.batch]
        return self._translator.search(sentences, run.batch[0].key, interrupt=run.interrupt)

    def _learn_speed(self, seconds: float, tokens: int) -> None:
        newest = seconds / tokens
        known = self._seconds_per_token
        self._seconds_per_token = newest if known is None else known + _SMOOTHING * (newest - known)


def _fail(item: Item[SearchKey, _Waiting], error: Exception) -> None:
    if not item.content.future.done():
        item.content.future.set_exception(error)
