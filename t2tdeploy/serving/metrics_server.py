"""The port that Prometheus reads metrics from, on the server's event loop."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from t2tdeploy.errors import OperationalError
from t2tdeploy.serving.http import HTTP_LOGGER


class MetricsServer:
    """Answers GET /metrics. Nothing happens before `start`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Binds the port.

        Returns:
            The port; it was chosen if `port` is 0.

        Raises:
            OperationalError: it cannot be had.
        """
        application = web.Application()
        application.router.add_get("/metrics", self._answer)
        runner = web.AppRunner(application, access_log=None, logger=HTTP_LOGGER)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise OperationalError(
                f"cannot listen on {host} port {port} for metrics: {error.strerror or error}",
                help="choose another metrics_port (0 takes a free one)",
            ) from error
        self._runner = runner
        found: int = runner.addresses[0][1]
        return found

    async def stop(self) -> None:
        """Closes the port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})
