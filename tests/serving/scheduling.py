"""A scheduler on an event loop of its own, and what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from t2tdeploy.decoding import TranslateOptions
from t2tdeploy.serving.batcher import BatchLimits
from t2tdeploy.serving.compute_slots import ComputeSlots
from t2tdeploy.serving.scheduler import Answer, Scheduler
from t2tdeploy.serving.work import TranslationWork
from tests.serving.held import Held

LIMITS = BatchLimits(
    max_batch_size=4,
    max_batch_tokens=100_000,
    max_queue_delay=0.0,
    max_queue_sentences=8,
    max_queue_tokens=10_000,
    priority_seconds=5.0,
)


def run(
    translator: Held,
    test: Callable[[Scheduler], Awaitable[None]],
    *,
    limits: BatchLimits = LIMITS,
    workers: int = 1,
    **options: Any,
) -> None:
    async def scheduled() -> None:
        scheduler = Scheduler(
            TranslationWork(translator), limits, workers=workers, slots=ComputeSlots(workers), **options
        )
        scheduler.start()
        try:
            async with asyncio.timeout(20):
                await test(scheduler)
        finally:
            translator.go.set()
            await scheduler.stop()

    asyncio.run(scheduled())


def ask(
    scheduler: Scheduler, *texts: str, after: float | None = None, beam_size: int = 4, **options: Any
) -> asyncio.Task[Answer]:
    work: Any = scheduler._work
    deadline = None if after is None else asyncio.get_running_loop().time() + after
    key = work.translator.search_key(TranslateOptions(beam_size=beam_size))
    rows = work.translator.encode(texts)
    return asyncio.create_task(scheduler.answer(rows, key, deadline=deadline, **options))


@contextlib.asynccontextmanager
async def started(schedulers: Sequence[Scheduler]) -> AsyncIterator[None]:
    """Within it they work, for 20 seconds at most."""
    for scheduler in schedulers:
        scheduler.start()
    async with asyncio.timeout(20):
        yield
    for scheduler in schedulers:
        await scheduler.stop()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def texts(answer: Answer) -> list[str]:
    return [hypotheses[0].text for hypotheses in answer.results]
