import asyncio
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.serving.compute_slots import ComputeSlots

OWNERS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 3), st.booleans(), st.integers(1, 3)),
    max_size=25,
)


@settings(max_examples=60)
@given(st.integers(1, 3), OWNERS)
def test_never_more_than_count_and_none_is_lost(count: int, holders: list[tuple[str, int, int, bool, int]]) -> None:
    """Whatever comes, waits, holds and is cancelled, in any order."""
    slots, held, served = ComputeSlots(count), 0, 0

    async def hold(owner: str, come: int, stay: int, size: int) -> None:
        nonlocal held, served
        await pause(come)
        async with slots.slot(owner, size):
            held += size
            served += 1
            assert held <= slots.held <= count
            try:
                await pause(stay)
            finally:
                held -= size

    async def everything() -> None:
        tasks = [
            asyncio.create_task(hold(owner, come, stay, min(size, count))) for owner, come, stay, _, size in holders
        ]
        await pause(3)
        for task, (_, _, _, cancelled, _) in zip(tasks, holders, strict=True):
            if cancelled:
                task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        assert slots.held == 0
        async with asyncio.timeout(1), slots.slot("last"):
            pass

    asyncio.run(everything())
    assert served >= sum(not cancelled for _, _, _, cancelled, _ in holders)


def test_owners_take_turns_however_many_of_each_wait() -> None:
    order: list[str] = []

    async def hold(slots: ComputeSlots, owner: str) -> None:
        async with slots.slot(owner):
            order.append(owner)
            await pause(1)

    async def everything() -> None:
        slots = ComputeSlots(1)
        async with slots.slot("first"):
            tasks = [asyncio.create_task(hold(slots, owner)) for owner in "aaaaaabbc"]
            await pause(2)
            assert not order
        await asyncio.gather(*tasks)

    asyncio.run(everything())
    assert "".join(order) == "abcabaaaa"


def test_who_needs_several_is_not_passed() -> None:
    order: list[str] = []

    async def hold(slots: ComputeSlots, owner: str, size: int) -> None:
        async with slots.slot(owner, size):
            order.append(owner)
            await pause(3)

    async def everything() -> None:
        slots = ComputeSlots(2)
        async with slots.slot("first"):
            tasks = [asyncio.create_task(hold(slots, owner, size)) for owner, size in (("large", 2), ("small", 1))]
            await pause(2)
            assert not order, "one slot is free, but it is not the small one's turn"
        await asyncio.gather(*tasks)

    asyncio.run(everything())
    assert order == ["large", "small"]


def test_a_large_one_that_gives_up_lets_the_others_pass() -> None:
    async def everything() -> None:
        slots = ComputeSlots(2)
        async with slots.slot("first"):
            large = asyncio.create_task(slots._acquire("large", 2))
            small = asyncio.create_task(slots._acquire("small", 1))
            await pause(2)
            large.cancel()
            async with asyncio.timeout(1):
                await small
            assert slots.held == 2

    asyncio.run(everything())


async def pause(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
