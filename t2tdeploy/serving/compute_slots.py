"""How many batches run at once in one process, whatever the number of models.

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


class ComputeSlots:
    """At most `count` holders at a time; owners that wait get a slot in turn, each one's own waiters in order.

    So an owner waits for no more than one batch of every other owner (with one slot), however much these have to do.
    Lives on one event loop.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._waiting: dict[object, deque[asyncio.Future[None]]] = {}  # whose turn is next comes first

    @property
    def held(self) -> int:
        """Slots in use."""
        return self.count - self._free

    @contextlib.asynccontextmanager
    async def slot(self, owner: object) -> AsyncIterator[None]:
        """Waits for a slot and holds it.

        Args:
            owner: whose turn it is; the scheduler of a model.
        """
        await self._acquire(owner)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, owner: object) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it came in the same moment
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            owner = next(iter(self._waiting))
            line = self._waiting.pop(owner)
            turn = line.popleft()
            if line:
                self._waiting[owner] = line  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
