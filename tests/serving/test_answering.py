from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from t2tdeploy.serving.answering import abort


class Ended:
    """The context of a call that gRPC has ended meanwhile: nothing can be sent any more."""

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, *_: object) -> None:
        raise grpc.aio.InternalError


def test_a_call_that_has_ended_already_is_no_fault_of_the_server() -> None:
    answers: Counter[str] = Counter()
    context: Any = Ended()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(abort(TimeoutError(), context, answers))
    assert answers == {"DEADLINE_EXCEEDED": 1}
