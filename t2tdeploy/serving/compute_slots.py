"""How many batches run at once on one kind of device, whatever the number of models.

Every session of onnxruntime has threads of its own, as many as the process has CPUs. They sleep while nothing runs;
but with several models computing at once there would be models x threads busy ones, which take the CPUs from each
other. onnxruntime's one pool for all sessions is no way out: Python reaches it only in late versions, and cannot tell
its threads not to spin. So a scheduler asks for a slot before it takes a batch. It takes as late as it can: what comes
while it waits for the slot joins the batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple


class ComputeSlots:
    """At most `count` slots held at a time; owners that wait get theirs in turn, each one's own waiters in order.

    So an owner waits for no more than one batch of every other owner (with one slot), however much these have to do.
    Who needs several slots waits for all of them, and nobody passes meanwhile. Lives on one event loop.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._waiting: dict[object, deque[_Turn]] = {}  # whose turn is next comes first

    @property
    def held(self) -> int:
        """Slots in use."""
        return self.count - self._free

    @contextlib.asynccontextmanager
    async def slot(self, owner: object, size: int = 1) -> AsyncIterator[None]:
        """Waits for `size` slots and holds them.

        Args:
            owner: whose turn it is; the scheduler of a model.
        """
        await self._acquire(owner, size)
        try:
            yield
        finally:
            self._release(size)

    async def _acquire(self, owner: object, size: int) -> None:
        if not self._waiting and self._free >= size:
            self._free -= size
            return
        turn = _Turn(asyncio.get_running_loop().create_future(), size)
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn.come
        except asyncio.CancelledError:
            # It came in the same moment; or the one that did not come kept others waiting.
            self._release(0 if turn.come.cancelled() else size)
            raise

    def _release(self, size: int) -> None:
        self._free += size
        while self._waiting:
            owner = next(iter(self._waiting))
            line = self._waiting[owner]
            turn = line[0]
            if not turn.come.done():
                if turn.size > self._free:
                    return
                self._free -= turn.size
                turn.come.set_result(None)
            line.popleft()
            del self._waiting[owner]
            if line:
                self._waiting[owner] = line  # behind all others


class _Turn(NamedTuple):
    """A wait for so many slots."""

    come: asyncio.Future[None]
    size: int
