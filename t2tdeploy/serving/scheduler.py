"""Carries rows, sentences or examples, from requests to worker threads and answers back. Lives on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

from t2tdeploy.runtime import SearchStoppedError
from t2tdeploy.serving.batch_run import BatchRun
from t2tdeploy.serving.batcher import BatchLimits, BatchQueue, Item, QueueFullError
from t2tdeploy.serving.compute_slots import ComputeSlots
from t2tdeploy.serving.observer import (
    BatchObserver,
    BatchReport,
    BatchStatistics,
    Dropped,
    Observers,
    Outcome,
    SchedulerState,
)
from t2tdeploy.serving.pace import Pace, retry_hint
from t2tdeploy.serving.waiting import WaitingRequest, WaitingRow
from t2tdeploy.serving.work import Key, Result, Row, Work

_TOO_LATE = "the server stopped before it could answer"


class OverloadedError(Exception):
    """The queue is full, or too long for the deadline of a request.

    Args:
        retry_after: seconds until it may be worth trying again, by the speed of the last batches.
    """

    def __init__(self, retry_after: float, message: str = "the queue is full") -> None:
        self.retry_after = retry_after
        super().__init__(message)


class UnavailableError(Exception):
    """The server is not serving now: it is starting or stopping."""


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """The results of a request's rows, in order.

    Args:
        queue: seconds from acceptance until a worker took the first row.
        compute: seconds from then until the last row was answered.
    """

    results: list[Result]
    queue: float
    compute: float


_Item: TypeAlias = Item[Key, WaitingRow[Row, Result]]


class Scheduler(Generic[Row, Key, Result]):
    """The queue of one model and the workers that empty it.

    Args:
        work: what it runs.
        workers: batches of this model that run at once.
        slots: shared by the schedulers of all models of the process on the same kind of device; with all workers busy
            all are taken, so with one worker a batch has all CPUs.
        observers: are told what happens; see serving/observer.py.
    """

    def __init__(
        self,
        work: Work[Row, Key, Result],
        limits: BatchLimits,
        *,
        workers: int,
        slots: ComputeSlots,
        observers: Sequence[BatchObserver] = (),
    ) -> None:
        self.batches = 0
        self.statistics = BatchStatistics()
        self._observers = Observers([self.statistics, *observers])
        self._work = work
        self._queue: BatchQueue[Key, WaitingRow[Row, Result]] = BatchQueue(limits)
        self._workers = workers
        self._slots = slots
        self._share = max(1, self._slots.count // workers)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="t2tdeploy-worker")
        self._tasks: list[asyncio.Task[None]] = []
        self._runs: set[BatchRun[Row, Key, Result]] = set()
        self._arrived = asyncio.Event()
        self._wanting_room: deque[tuple[list[_Item[Key, Row, Result]], asyncio.Future[None]]] = deque()
        self._pace = Pace(workers)
        self._answered = 0  # rows of the last batch
        self._expected = 0  # rows that are being made
        self._stopped = False

    def start(self) -> None:
        """Starts the workers on the running event loop."""
        self._tasks = [asyncio.create_task(self._run_batches()) for _ in range(self._workers)]

    async def stop(self) -> None:
        """Stops the workers; what waits, runs or still comes is answered with UnavailableError."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        waiting = self._queue.clear()
        self._observers.dropped(len(waiting), "stopped")
        stopped = UnavailableError(_TOO_LATE)
        for item in [*waiting, *(item for run in self._runs for item in run.batch)]:
            _fail(item.content.request.ended, stopped)
        for _, room in self._wanting_room:
            _fail(room, stopped)
        for run in self._runs:
            run.interrupt.stop()
        await asyncio.to_thread(self._pool.shutdown)

    def subscribe(self, observer: BatchObserver) -> None:
        """Tells `observer` too what happens from now on."""
        self._observers.add(observer)

    def state(self) -> SchedulerState:
        """What waits and runs now."""
        computing = self._computing()
        sentences = sum(len(run.batch) for run in computing)
        return SchedulerState(len(self._queue), self._queue.tokens, len(computing), sentences, self._workers)

    def _computing(self) -> list[BatchRun[Row, Key, Result]]:
        return [run for run in self._runs if not run.divided]

    @contextlib.contextmanager
    def expecting(self, count: int, deadline: float | None, priority: int = 0) -> Iterator[None]:
        """Around the work that makes `count` more rows of a request: they may wait, beside those that wait already and
        those that are being made.

        Raises:
            TimeoutError: the deadline passed.
            OverloadedError: the queue is full, or too long for the deadline, whatever the length of the rows.
        """
        self._require_unexpired(count, deadline)
        if not self._queue.has_room(self._expected + count):
            self._observers.refused(count, "queue_full")
            raise OverloadedError(self._retry_after())
        self._require_time(count, count, deadline, priority)
        self._expected += count
        try:
            yield
        finally:
            self._expected -= count

    async def answer(
        self,
        rows: Sequence[Row],
        key: Key,
        *,
        deadline: float | None,
        priority: int = 0,
        wait_for_room: bool = False,
    ) -> Answer[Result]:
        """Queues `rows` and waits for their results. Cancelling it withdraws them.

        Args:
            key: only rows with equal keys share a batch.
            deadline: on the clock of the event loop.
            priority: MIN_PRIORITY to MAX_PRIORITY of the batcher; higher goes first.
            wait_for_room: instead of being refused by a full queue, wait in line until there is room in that part of
                it that is for those who wait.

        Raises:
            OverloadedError: the queue is full, or too long for the deadline; none was queued.
            TimeoutError: the deadline passed, or came too close.
            UnavailableError: the scheduler stopped.
            OperationalError: the run failed.
        """
        loop = asyncio.get_running_loop()
        accepted = loop.time()
        if self._stopped:
            raise UnavailableError(_TOO_LATE)
        self._require_unexpired(len(rows), deadline)
        request = WaitingRequest[Result](len(rows), loop.create_future())
        items = [
            self._item(WaitingRow(row, request, place), key, deadline, priority, wait_for_room)
            for place, row in enumerate(rows)
        ]
        why: Dropped = "cancelled"
        try:
            async with asyncio.timeout_at(deadline):
                if wait_for_room:
                    await self._wait_for_room(items)
                else:
                    self._require_time(len(items), sum(item.length for item in items), deadline, priority)
                    self._add(items)
                results = await request.ended
        except TimeoutError:
            why = "deadline"
            raise
        finally:
            self._withdraw(request, items, why)
        assert request.started is not None
        return Answer(results, queue=request.started - accepted, compute=loop.time() - request.started)

    def _item(
        self, one: WaitingRow[Row, Result], key: Key, deadline: float | None, priority: int, patient: bool
    ) -> _Item[Key, Row, Result]:
        length, cost = self._work.length(one.row), self._work.cost(one.row, key)
        return Item(one, length, cost, key, deadline, priority, patient)

    def _require_unexpired(self, count: int, deadline: float | None) -> None:
        """
        Raises:
            TimeoutError: the deadline passed.
        """
        if deadline is not None and deadline <= asyncio.get_running_loop().time():
            self._observers.refused(count, "deadline")
            raise TimeoutError

    def _require_time(self, count: int, tokens: int, deadline: float | None, priority: int) -> None:
        """
        Raises:
            OverloadedError: what waits before it and runs will probably take until after the deadline.
        """
        if deadline is None or not len(self._queue):  # one may always wait: else a wrong estimate would never mend
            return
        now = asyncio.get_running_loop().time()
        computing = self._computing()
        busy = len(computing) >= self._workers
        running = now - min(run.started for run in computing) if busy else None
        ahead = self._queue.tokens_ahead(priority, now)
        late = self._pace.lateness(ahead + tokens, self._queue.tokens + tokens, running, deadline - now)
        if late > 0:
            self._observers.refused(count, "queue_full")
            raise OverloadedError(retry_hint(late), "the queue is too long for the deadline")

    def _add(self, items: list[_Item[Key, Row, Result]]) -> None:
        """
        Raises:
            OverloadedError: the queue is full; none was queued.
        """
        try:
            self._queue.add(items, asyncio.get_running_loop().time())
        except QueueFullError:
            self._observers.refused(len(items), "queue_full")
            raise OverloadedError(self._retry_after()) from None
        self._arrived.set()
        tokens, priority = sum(item.length for item in items), items[0].priority
        self._observers.admitted(len(items), tokens, priority)

    async def _wait_for_room(self, items: list[_Item[Key, Row, Result]]) -> None:
        """Queues `items` as soon as they fit; those who wait longer first."""
        if not self._wanting_room and self._fits(items):
            self._add(items)
            return
        room = asyncio.get_running_loop().create_future()
        self._wanting_room.append((items, room))
        await room

    def _give_room(self) -> None:
        """Queues of those who wait for room what fits; call it when the queue became shorter."""
        while self._wanting_room:
            items, room = self._wanting_room[0]
            if not room.done():
                if not self._fits(items):
                    return
                self._add(items)
                room.set_result(None)
            self._wanting_room.popleft()

    def _fits(self, items: list[_Item[Key, Row, Result]]) -> bool:
        return self._queue.has_room_for_patient(len(items), sum(item.length for item in items))

    def _withdraw(self, request: WaitingRequest[Result], items: list[_Item[Key, Row, Result]], why: Dropped) -> None:
        """Drops what is not done of a request that ended, and stops batches that nobody waits for any more."""
        self._observers.dropped(self._queue.discard(items), why)
        request.ended.cancel()
        for run in self._runs:
            run.stop_if_unwanted()
        self._give_room()

    def _retry_after(self) -> float:
        return retry_hint(self._pace.wait(self._queue.tokens))

    @property
    def _lead(self) -> float:
        return self._pace.lead(self._queue.tokens)

    async def _run_batches(self) -> None:
        while True:
            await self._ready()
            if len(self._queue) < self._answered:
                await asyncio.sleep(self._pace.pause(asyncio.get_running_loop().time()))
            async with self._slots.slot(self, self._share):
                if batch := self._take():
                    await self._run(batch, others_waited=len(self._queue) > 0)

    async def _ready(self) -> None:
        """Waits until a batch can be taken."""
        loop = asyncio.get_running_loop()
        while not self._queue.ready(loop.time(), self._lead):
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._queue.due(self._lead)):
                    await self._arrived.wait()

    def _take(self) -> list[_Item[Key, Row, Result]]:
        now = asyncio.get_running_loop().time()
        expired = self._queue.expire(now, self._pace.next_batch(self._queue.tokens))
        self._observers.dropped(len(expired), "deadline")
        for item in expired:
            _fail(item.content.request.ended, TimeoutError())
        batch = self._queue.take(now, self._pace.token, self._lead)
        self._give_room()
        return batch

    async def _run(self, batch: list[_Item[Key, Row, Result]], *, others_waited: bool) -> None:
        """Runs a batch. If it fails, its halves are run, and so on: only the rows that fail alone are lost."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        run = BatchRun(batch, started, others_waited, alone=self._is_alone(started, others_waited))
        for item in batch:
            item.content.request.start(started)
        self._runs.add(run)
        outcome: Outcome = "ok"
        try:
            results = await loop.run_in_executor(self._pool, self._compute, run)
        except SearchStoppedError:
            outcome = "stopped"  # nobody waits for it any more
        except Exception as error:
            outcome = "split" if len(batch) > 1 else "failed"
            if outcome == "failed":
                _fail(batch[0].content.request.ended, error)
        else:
            for item, result in zip(batch, results, strict=True):
                item.content.request.answer(item.content.place, result)
        self.batches, self._answered = self.batches + 1, len(batch)
        self._report(run, outcome)
        if outcome == "split":
            run.divided = True
            wanted = [item for item in batch if not item.content.unwanted]
            middle = (len(wanted) + 1) // 2
            for half in (wanted[:middle], wanted[middle:]):
                if half:
                    await self._run(half, others_waited=False)
        self._runs.discard(run)  # not when cancelled: `stop` still has to answer its rows

    def _is_alone(self, now: float, others_waited: bool) -> bool:
        """Whether a batch that starts now has the CPUs for itself, as it seems."""
        if others_waited or self._slots.held > self._share:
            self._pace.met_company(now)
        return self._pace.is_calm(now)

    def _compute(self, run: BatchRun[Row, Key, Result]) -> list[Result]:
        rows = [item.content.row for item in run.batch]
        return self._work.run(rows, run.batch[0].key, run.interrupt, alone=run.alone)

    def _report(self, run: BatchRun[Row, Key, Result], outcome: Outcome) -> None:
        """Tells the observers of a batch that ended, and learns from it how fast batches are."""
        batch, finished = run.batch, asyncio.get_running_loop().time()
        report = BatchReport(
            sentences=len(batch),
            tokens=sum(item.length for item in batch),
            padded_tokens=len(batch) * max(item.length for item in batch),
            cost=len(batch) * max(item.cost for item in batch),
            queue_seconds=tuple(run.started - item.enqueued for item in batch),
            compute_seconds=finished - run.started,
            outcome=outcome,
            finished=finished,
        )
        if outcome in ("ok", "stopped"):
            self._pace.learn(
                report.compute_seconds,
                report.tokens,
                others_waited=run.others_waited,
                complete=outcome == "ok",
                widened=self._work.widens and run.alone,
            )
            self._arrived.set()  # who sleeps until a deadline is near may have to begin sooner
        self._observers.batch_done(report)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
