"""What all clients are made of: a channel to the servers of a name, how to ask them, and its end."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from t2tdeploy.serving.attempts import DEFAULT_OPTIONS, ClientOptions
from t2tdeploy.serving.channel import open_async_channel, open_channel
from t2tdeploy.serving.in_flight import CHANNEL


class Connection:
    """Of plain code; may be shared by threads. Close it, or use it in a `with`.

    Args:
        target: "host:port" of the server, or any other name that gRPC resolves: "dns:///name:port".
    """

    def __init__(self, target: str, options: ClientOptions = DEFAULT_OPTIONS) -> None:
        self._target, self._options = target, options
        self._channel = open_channel(target, options.security, CHANNEL)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncConnection:
    """Of asyncio. Make and use it on one event loop; close it, or use it in an `async with`.

    Args:
        target: as of `Connection`.
    """

    def __init__(self, target: str, options: ClientOptions = DEFAULT_OPTIONS) -> None:
        self._target, self._options = target, options
        self._channel = open_async_channel(target, options.security, CHANNEL)

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
