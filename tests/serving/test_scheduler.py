"""Laws of the scheduler, with a real translator that tells what it is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.decoding import SearchKey
from t2tdeploy.errors import OperationalError
from t2tdeploy.runtime import Interrupt
from t2tdeploy.sentences import Sentence
from t2tdeploy.serving.compute_slots import ComputeSlots
from t2tdeploy.serving.pace import Pace
from t2tdeploy.serving.scheduler import Answer, OverloadedError, Scheduler, UnavailableError
from t2tdeploy.serving.work import TranslationWork
from t2tdeploy.translator import Hypothesis
from tests.serving.held import Counter, Held, Told
from tests.serving.scheduling import LIMITS, ask, run, started, texts, until
from tests.serving.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def test_what_is_told_adds_up(bundle: Bundle) -> None:
    translator, told = Held(bundle), Told()

    async def test(scheduler: Scheduler) -> None:
        late = Told()
        scheduler.subscribe(late)
        first = ask(scheduler, "a")
        await until(lambda: translator.batches == [["a"]])
        rest = [ask(scheduler, "bb", "cc", priority=1), ask(scheduler, "dd", "e", after=0.05), ask(scheduler, "gone")]
        await until(lambda: scheduler.state().waiting_sentences == 5)
        assert scheduler.state().waiting_tokens == 3 + 3 + 3 + 2 + 5
        assert (scheduler.state().running_batches, scheduler.state().running_sentences) == (1, 1)
        rest[2].cancel()
        with pytest.raises(OverloadedError):
            await ask(scheduler, *"0123456789")
        with pytest.raises(TimeoutError):
            await ask(scheduler, "late", after=-1)
        with pytest.raises(TimeoutError):  # although it would wait for room
            await ask(scheduler, "late", after=-1, wait_for_room=True)
        passed = scheduler.expecting(1, asyncio.get_running_loop().time() - 1)
        with pytest.raises(TimeoutError), passed:  # before it is tokenized, however long the queue is
            pass
        with pytest.raises(TimeoutError):
            await rest[1]
        translator.go.set()
        assert texts(await first) == ["a"]
        assert texts(await rest[0]) == ["bb", "cc"]
        await until(lambda: scheduler.state().running_batches == 0)
        assert scheduler.state().waiting_sentences == scheduler.state().waiting_tokens == 0
        assert told.events == late.events
        statistics = scheduler.statistics
        assert statistics.refused_sentences == {"queue_full": 10, "deadline": 3}
        assert statistics.dropped_sentences == {"cancelled": 1, "deadline": 2}
        assert {size: of.count for size, of in statistics.sizes.items()} == {1: 1, 2: 1}

    run(translator, test, observers=[told])
    assert ("admitted", 2, 6, 1) in told.events
    assert [(one.sentences, one.tokens, one.padded_tokens, one.outcome) for one in told.reports] == [
        (1, 2, 2, "ok"),
        (2, 6, 6, "ok"),
    ]
    assert all(wait >= 0 for one in told.reports for wait in one.queue_seconds)


def test_a_sentence_that_breaks_its_batch_is_the_only_one_lost(bundle: Bundle) -> None:
    translator, told = Held(bundle), Told()
    translator.poison = "bad"

    async def test(scheduler: Scheduler) -> None:
        first = ask(scheduler, "x")
        await until(lambda: len(translator.batches) == 1)
        good, bad = [ask(scheduler, "one"), ask(scheduler, "two"), ask(scheduler, "six")], ask(scheduler, "bad")
        await until(lambda: scheduler.state().waiting_sentences == 4)
        translator.go.set()
        answers, most = asyncio.gather(first, *good), 0
        while not answers.done():
            most = max(most, scheduler.state().running_batches)
            await asyncio.sleep(0)
        assert most == 1, "halves run in place of their batch"
        assert [texts(answer) for answer in await answers] == [["x"], ["one"], ["two"], ["six"]]
        with pytest.raises(OperationalError, match="breaks the graph"):
            await bad
        await until(lambda: scheduler.state().running_batches == 0)

    run(translator, test, observers=[told])
    assert sum(one.sentences for one in told.reports if one.outcome == "ok") == 4
    assert [one.sentences for one in told.reports if one.outcome == "failed"] == [1]


def test_a_higher_priority_is_taken_first(bundle: Bundle) -> None:
    translator = Held(bundle)

    async def test(scheduler: Scheduler) -> None:
        first = ask(scheduler, "x")
        await until(lambda: len(translator.batches) == 1)
        longs = [ask(scheduler, letter * 100) for letter in "abcd"]
        urgent = ask(scheduler, "urgent", priority=1)
        await until(lambda: scheduler.state().waiting_sentences == 5)
        translator.go.set()
        await asyncio.gather(first, *longs, urgent)

    run(translator, test)
    assert translator.batches[1][0] == "urgent"


def test_who_waits_for_room_is_served_in_order_and_never_refused(bundle: Bundle) -> None:
    translator = Held(bundle)

    async def test(scheduler: Scheduler) -> None:
        first = ask(scheduler, "x")
        await until(lambda: len(translator.batches) == 1)
        full = ask(scheduler, *"abcdefgh")
        await until(lambda: scheduler.state().waiting_sentences == 8)
        patient = [ask(scheduler, f"p{number}", wait_for_room=True) for number in range(20)]
        leaving = ask(scheduler, "leaving", wait_for_room=True)
        late = ask(scheduler, "late", wait_for_room=True, after=0.02)
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await ask(scheduler, "hasty")
        leaving.cancel()
        with pytest.raises(TimeoutError):
            await late
        assert scheduler.state().waiting_sentences == 8
        translator.go.set()
        answers = await asyncio.gather(*patient)
        assert [texts(answer) for answer in answers] == [[f"p{number}"] for number in range(20)]
        await asyncio.gather(first, full)
        assert scheduler.state().waiting_sentences == 0

    run(translator, test)
    order = [text for batch in translator.batches for text in batch if text.startswith("p")]
    assert order == sorted(order, key=lambda text: int(text[1:]))
    assert not {"leaving", "late", "hasty"} & {text for batch in translator.batches for text in batch}


def test_rows_that_are_being_made_take_room(bundle: Bundle) -> None:
    async def test(scheduler: Scheduler) -> None:
        with scheduler.expecting(5, None), scheduler.expecting(3, None):
            with pytest.raises(OverloadedError), scheduler.expecting(1, None):
                pass
            assert scheduler.statistics.refused_sentences == {"queue_full": 1}
        with pytest.raises(ZeroDivisionError), scheduler.expecting(8, None):
            raise ZeroDivisionError
        with scheduler.expecting(8, None):
            pass

    run(Held(bundle), test)


def test_who_waits_for_room_leaves_the_rest_of_the_queue_to_others(bundle: Bundle) -> None:
    """Every place that becomes free would be theirs, for as long as they wait."""
    translator = Held(bundle)

    async def test(scheduler: Scheduler) -> None:
        first = ask(scheduler, "x")
        await until(lambda: len(translator.batches) == 1)
        patient = [ask(scheduler, f"p{number}", wait_for_room=True) for number in range(20)]
        await asyncio.sleep(0)
        assert scheduler.state().waiting_sentences == LIMITS.most_patient == 2
        others = ask(scheduler, *"abcdef")
        await asyncio.sleep(0)
        assert scheduler.state().waiting_sentences == 8
        with pytest.raises(OverloadedError):
            await ask(scheduler, "hasty")
        translator.go.set()
        await asyncio.gather(first, *patient, others)

    run(translator, test)


def test_stopping_answers_everybody(bundle: Bundle) -> None:
    translator = Held(bundle)
    asked: list[asyncio.Task[Answer]] = []

    async def test(scheduler: Scheduler) -> None:
        asked.append(ask(scheduler, "runs"))
        await until(lambda: len(translator.batches) == 1)
        asked.append(ask(scheduler, *"abcdefgh"))
        await until(lambda: scheduler.state().waiting_sentences == 8)
        asked.append(ask(scheduler, "no room", wait_for_room=True))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(scheduler.stop())
        for task in asked:
            with pytest.raises(UnavailableError):
                await task
        translator.go.set()
        await stopping
        assert scheduler.statistics.dropped_sentences == {"stopped": 8}

    run(translator, test)


def test_a_batch_has_all_cpus_while_it_is_alone(bundle: Bundle) -> None:
    """A lone batch runs on the session of all CPUs, batches beside others on the other one; and after company a batch
    is alone again only when none has come for a while."""
    lone, beside = Held(bundle), Held(bundle)

    async def everything() -> None:
        scheduler = Scheduler(TranslationWork(lone, beside), LIMITS, workers=2, slots=ComputeSlots(2))
        scheduler.start()
        async with asyncio.timeout(20):
            first = ask(scheduler, "first")
            await until(lambda: lone.batches == [["first"]])
            second = ask(scheduler, "second")
            await until(lambda: beside.batches == [["second"]])
            for held in (lone, beside):
                held.go.set()
            await asyncio.gather(first, second)
            scheduler._pace.learn(600.0, 10, others_waited=False, complete=True)  # minutes are soon, then
            await ask(scheduler, "soon after")
            assert [lone.batches, beside.batches] == [[["first"]], [["second"], ["soon after"]]]
            scheduler._pace = Pace(2)
            await ask(scheduler, "much later")
            assert lone.batches == [["first"], ["much later"]]
            await ask(scheduler, *"abcdefg")
            assert len(lone.batches) == 2, "four ran while three waited"
        await scheduler.stop()

    asyncio.run(everything())


def test_a_model_of_one_worker_has_the_cpus_for_itself(bundle: Bundle) -> None:
    """Its batch has the threads of all CPUs; so none of another model runs beside it, whatever the slots."""
    counter = Counter()
    models = [Held(bundle, counter) for _ in range(3)]

    async def everything() -> None:
        shared = ComputeSlots(2)
        schedulers = [
            Scheduler(TranslationWork(model), LIMITS, workers=workers, slots=shared)
            for model, workers in zip(models, (1, 1, 2), strict=True)
        ]
        async with started(schedulers):
            first = ask(schedulers[0], "a")
            await until(lambda: counter.now == 1)
            others = [ask(schedulers[2], "b")]
            await asyncio.sleep(0.05)
            assert counter.most == 1, "neither one of two workers beside one that has all"
            models[0].go.set()
            await first
            await until(lambda: len(models[2].batches) == 1)
            others.append(ask(schedulers[1], "c"))
            await asyncio.sleep(0.05)
            assert models[1].batches == [], "nor the other way round"
            models[2].go.set()
            models[1].go.set()
            await asyncio.gather(*others)
            assert counter.most == 1

    asyncio.run(everything())


def test_a_model_with_other_slots_runs_beside_others(bundle: Bundle) -> None:
    """As one on a GPU does beside those on CPUs."""
    counter = Counter()
    models = [Held(bundle, counter) for _ in range(2)]

    async def everything() -> None:
        schedulers = [
            Scheduler(TranslationWork(one), LIMITS, workers=1, slots=slots)
            for one, slots in zip(models, (ComputeSlots(2), ComputeSlots(1)), strict=True)
        ]
        async with started(schedulers):
            both = [ask(scheduler, "a") for scheduler in schedulers]
            await until(lambda: counter.now == 2)
            for model in models:
                model.go.set()
            await asyncio.gather(*both)

    asyncio.run(everything())


class Together(Held):
    """Batches of long sentences only run two at once, or fail."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.both = threading.Barrier(2)

    def search(
        self, sentences: Sequence[Sentence], key: SearchKey, *, interrupt: Interrupt | None = None
    ) -> list[list[Hypothesis]]:
        if len(sentences[0].text) > 1:
            self.both.wait(timeout=5)
        return super().search(sentences, key, interrupt=interrupt)


def test_who_waits_for_a_fuller_batch_begins_sooner_when_batches_turn_out_slower(bundle: Bundle) -> None:
    """With 12 seconds left they would wait for nearly all of them, at the pace known when they came. They have not the
    same options: the worker that learns of another pace takes one, and the idle one has to take the other."""
    held = Together(bundle)

    async def test(scheduler: Scheduler) -> None:
        held.go.set()
        for _ in range(3):
            await ask(scheduler, "a", "a")  # as many as a batch holds
        held.go.clear()
        full = ask(scheduler, "b", "b")
        await until(lambda: len(held.batches) == 4)
        waiting = [ask(scheduler, "a" * 150, after=12, beam_size=beam_size) for beam_size in (2, 4)]
        await asyncio.sleep(1.0)
        assert len(held.batches) == 4
        held.go.set()
        await full
        await asyncio.wait_for(asyncio.gather(*waiting), timeout=8)

    run(held, test, workers=2, limits=replace(LIMITS, max_batch_size=2, max_queue_delay=60.0))


@pytest.mark.parametrize("slots", [1, 2])
def test_models_share_the_slots_and_none_starves(bundle: Bundle, slots: int) -> None:
    """However long one model's queue is, another waits for one of its batches, and never do more than `slots` run."""
    counter = Counter()
    busy, calm = Held(bundle, counter), Held(bundle, counter)
    order: list[str] = []

    async def everything() -> None:
        shared = ComputeSlots(slots)
        options: dict[str, Any] = {"workers": 2, "slots": shared}
        schedulers = [Scheduler(TranslationWork(translator), LIMITS, **options) for translator in (busy, calm)]

        async def keep_asking(scheduler: Scheduler, name: str, count: int) -> None:
            for _ in range(count):
                await ask(scheduler, "a", "b", "c", "d")
                order.append(name)

        async with started(schedulers), asyncio.TaskGroup() as group:
            group.create_task(keep_asking(schedulers[0], "busy", 20))
            group.create_task(keep_asking(schedulers[0], "busy", 20))
            await until(lambda: counter.now == slots)
            calm.go.set()
            group.create_task(keep_asking(schedulers[1], "calm", 10))
            busy.go.set()

    asyncio.run(everything())
    assert counter.most == slots
    assert len(order) == 50
    assert order.index("calm", 0) < 10
    last = max(index for index, name in enumerate(order) if name == "calm")
    assert last < 45, "the calm model's ten requests went between the others' forty"
