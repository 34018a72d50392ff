import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.serving.client_slots import ClientBusyError, ClientSlots


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())), st.integers(1, 3))
def test_a_client_never_has_more_than_its_share_and_never_takes_that_of_others(
    steps: list[tuple[str, bool]], limit: int
) -> None:
    slots = ClientSlots(limit, clock=lambda: 0.0)
    held: dict[str, list[contextlib.ExitStack]] = {"a": [], "b": [], "c": []}
    for client, leaves in steps:
        if leaves and held[client]:
            held[client].pop().close()
            continue
        stack = contextlib.ExitStack()
        if len(held[client]) == limit:
            with pytest.raises(ClientBusyError):
                stack.enter_context(slots.taken(client))
        else:
            stack.enter_context(slots.taken(client))
            held[client].append(stack)
    assert len(slots) == sum(map(bool, held.values()))
    for stacks in held.values():
        for stack in stacks:
            stack.close()
    assert len(slots) == 0


def test_the_hint_is_as_long_as_calls_take() -> None:
    now = 0.0
    slots = ClientSlots(1, clock=lambda: now)
    for _ in range(40):
        with slots.taken("a"):
            now += 2.0
    with slots.taken("a"), pytest.raises(ClientBusyError, match="1 calls of this client") as caught, slots.taken("a"):
        pass
    assert caught.value.retry_after == pytest.approx(2.0)


def test_a_call_that_fails_gives_its_place_back() -> None:
    slots = ClientSlots(1)
    for _ in range(3):
        with pytest.raises(KeyError), slots.taken("a"):
            raise KeyError
    assert len(slots) == 0


def test_without_a_limit_nothing_is_counted() -> None:
    slots = ClientSlots(None)
    with slots.taken("a"), slots.taken("a"):
        assert len(slots) == 0
