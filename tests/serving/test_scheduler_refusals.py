"""Whom a scheduler refuses: those who would come too late, and all once it stops."""

from __future__ import annotations

import asyncio

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.scheduler import OverloadedError, Scheduler, UnavailableError
from tests.serving.held import Held
from tests.serving.scheduling import ask, run, texts, until
from tests.serving.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def test_what_comes_after_a_request_does_not_make_it_late(bundle: Bundle) -> None:
    """The queue is too long for a deadline as far as it goes first."""
    translator = Held(bundle)
    translator.go.set()

    async def test(scheduler: Scheduler) -> None:
        scheduler._pace.learn(4.0, 20, others_waited=True, complete=True)  # 0.2 s a token
        translator.go.clear()
        first = ask(scheduler, "first")
        await until(lambda: len(translator.batches) == 1)
        documents = [ask(scheduler, "a document", priority=-1) for _ in range(6)]
        await until(lambda: scheduler.state().waiting_sentences == 6)
        for priority in (-2, -1):
            with pytest.raises(OverloadedError, match="too long for the deadline"):
                await ask(scheduler, "a", after=12, priority=priority)
            expecting = scheduler.expecting(1, asyncio.get_running_loop().time() + 12, priority)
            with pytest.raises(OverloadedError, match="too long for the deadline"), expecting:
                pass
        urgent = [ask(scheduler, "a", after=12, priority=priority) for priority in (0, 2)]
        await until(lambda: scheduler.state().waiting_sentences == 8)
        translator.go.set()
        assert [texts(answer) for answer in await asyncio.gather(*urgent)] == [["a"], ["a"]]
        await asyncio.gather(first, *documents)

    run(translator, test)


def test_who_comes_to_a_stopped_scheduler_is_told(bundle: Bundle) -> None:
    translator = Held(bundle)
    translator.go.set()

    async def test(scheduler: Scheduler) -> None:
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0)
        for wait_for_room in (False, True):
            with pytest.raises(UnavailableError, match="the server stopped"):
                await ask(scheduler, "meanwhile", wait_for_room=wait_for_room)
        await stopping
        for wait_for_room in (False, True):
            with pytest.raises(UnavailableError, match="the server stopped"):
                await ask(scheduler, "afterwards", wait_for_room=wait_for_room)

    run(translator, test)
