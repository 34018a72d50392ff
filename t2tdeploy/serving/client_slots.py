"""How many calls of one client may be under way at once, so that one client cannot take the whole queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

from t2tdeploy.serving.scheduler import OverloadedError

_SMOOTHING = 0.2  # weight of the newest call in the running mean of their seconds
_MIN_RETRY, _MAX_RETRY = 0.05, 10.0  # seconds


class ClientBusyError(OverloadedError):
    """A client has as many calls under way as it may.

    Args:
        retry_after: seconds that calls took lately: until then some of its own are answered.
    """

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__(retry_after)
        self.args = (f"{limit} calls of this client are under way, more are not taken",)


class ClientSlots:
    """The calls under way, by client.

    Args:
        limit: calls of one client at once; None: no bound.
        clock: seconds.
    """

    def __init__(self, limit: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._taken: Counter[str] = Counter()
        self._seconds: float | None = None

    @contextlib.contextmanager
    def taken(self, client: str) -> Iterator[None]:
        """Around one call of `client`.

        Raises:
            ClientBusyError: it has as many as it may.
        """
        if self.limit is None:
            yield
            return
        if self._taken[client] >= self.limit:
            raise ClientBusyError(self.limit, min(max(self._seconds or 0.0, _MIN_RETRY), _MAX_RETRY))
        self._taken[client] += 1
        began = self._clock()
        try:
            yield
        finally:
            self._learn(self._clock() - began)
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]  # else every address that ever asked would stay in memory

    def __len__(self) -> int:
        """Clients with calls under way."""
        return len(self._taken)

    def _learn(self, seconds: float) -> None:
        known = self._seconds
        self._seconds = seconds if known is None else known + _SMOOTHING * (seconds - known)


class StreamSlots:
    """The requests under way within a stream of requests, which has a place itself as long as it is open.

    That is the place of the first; each further one takes one of its client's. Where there is none, the stream is read
    no further until one of its own requests has ended: it can never be stuck, and nothing in it is refused.
    """

    def __init__(self, slots: ClientSlots, client: str) -> None:
        self._slots, self._client = slots, client
        self._own_taken = False
        self._left = asyncio.Event()

    async def take(self) -> contextlib.ExitStack:
        """The place of one request, to be closed when that has ended. One task takes all of a stream."""
        place = contextlib.ExitStack()
        place.callback(self._left.set)
        while self._own_taken:
            self._left.clear()
            with contextlib.suppress(ClientBusyError):
                place.enter_context(self._slots.taken(self._client))
                return place
            await self._left.wait()
        self._own_taken = True
        place.callback(self._give_back)
        return place

    def _give_back(self) -> None:
        self._own_taken = False
