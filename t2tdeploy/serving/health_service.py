"""grpc.health.v1 as a server tells it. A watcher that does not read holds up nobody.

That of grpcio-health-checking writes to watchers under a lock which every change of a status waits for, so that one
client who grants no window would freeze the health of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Health = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Knows whether each of some names serves, on the running event loop."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()

    def set(self, serving: Mapping[str, bool]) -> None:
        """Tells of some names whether they serve; of the others nothing changes."""
        for name, state in serving.items():
            self._statuses[name] = Health.SERVING if state else Health.NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The status of a name, or NOT_FOUND."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return Health(status=status)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """The status of a name, or SERVICE_UNKNOWN, now and when it changes; of several changes while the client does
        not read, the last."""
        told = None
        while True:
            changed = self._changed  # taken before the status is read: what changes during the write sets this one
            status = self._statuses.get(request.service, Health.SERVICE_UNKNOWN)
            if status != told:
                await context.write(Health(status=status))
                told = status
            await changed.wait()
