"""The gRPC server: from a bundle to a port that answers, and back to a clean exit."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from t2tdeploy.bundle import Bundle, load_bundle
from t2tdeploy.errors import OperationalError
from t2tdeploy.progress import Reporter
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.scheduler import Scheduler
from t2tdeploy.serving.service import TranslationService
from t2tdeploy.targets import require_runnable
from t2tdeploy.translator import Translator

_FLUSH_SECONDS = 1.0
"""For answers on their way to the client when the port closes; open health watches end with it."""


def serve(bundle_dir: Path, options: ServerOptions, reporter: Reporter) -> None:
    """Serves a bundle until SIGTERM or SIGINT, then finishes the accepted requests and returns. Main thread only.

    Reports the events `serving` (host, port, model, version, variant, threads, workers), `stopping` and `stopped`.

    Raises:
        InputError, CorruptFileError: the bundle cannot be read.
        UnknownNameError: it has no such variant.
        OperationalError: the port cannot be had, or the variant is made for another kind of machine.
    """
    bundle = load_bundle(bundle_dir)
    require_runnable(bundle, options.variant)
    asyncio.run(_serve_until_signal(bundle, options, reporter))


async def _serve_until_signal(bundle: Bundle, options: ServerOptions, reporter: Reporter) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    server = Server(bundle, options, reporter)
    try:
        await server.start()
        await stopping.wait()
    finally:
        await server.stop()


class Server:
    """A server for one bundle, on the running event loop. Nothing happens before `start`."""

    def __init__(self, bundle: Bundle, options: ServerOptions, reporter: Reporter) -> None:
        self.port: int | None = None
        self._bundle = bundle
        self._options = options
        self._reporter = reporter
        self._service = TranslationService(bundle, options)
        self._health = health.aio.HealthServicer()
        self._scheduler: Scheduler | None = None
        self._grpc: grpc.aio.Server | None = None

    @property
    def answers(self) -> Counter[str]:
        """Calls answered so far, by status name."""
        return self._service.answers

    @property
    def batches(self) -> int:
        """Batches run so far, the warm-up not counted."""
        return self._scheduler.batches if self._scheduler else 0

    async def start(self) -> int:
        """Binds the port, loads the model, warms it up, then serves. Until then requests get UNAVAILABLE.

        Returns:
            The port.

        Raises:
            OperationalError: the port cannot be had.
            CorruptFileError: the graph cannot be loaded.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.port = await self._bind()
        translator = await asyncio.to_thread(self._load)
        self._scheduler = Scheduler(translator, self._options.batch_limits(), workers=self._options.workers)
        self._scheduler.start()
        self._service.open(translator, self._scheduler)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._reporter.event(
            "serving",
            host=self._options.host,
            port=self.port,
            model=self._bundle.manifest.name,
            version=self._bundle.version,
            variant=self._options.variant or self._bundle.manifest.default_variant,
            threads=translator.session.threads,
            workers=self._options.workers,
        )
        return self.port

    async def stop(self) -> None:
        """Health turns NOT_SERVING, new requests get UNAVAILABLE, accepted ones finish, the port closes."""
        if self._grpc is None:
            return
        self._reporter.event("stopping", grace_seconds=self._options.shutdown_grace_seconds)
        await self._health.enter_graceful_shutdown()
        unfinished = await self._service.close(self._options.shutdown_grace_seconds)
        if self._scheduler:
            await self._scheduler.stop()
        await self._grpc.stop(_FLUSH_SECONDS)
        self._grpc = None
        self._reporter.event("stopped", answers=dict(self.answers), unfinished=unfinished, batches=self.batches)

    async def _bind(self) -> int:
        address = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        address = f"{address}:{self._options.port}"
        _require_bindable(self._options.host, self._options.port)
        options = [
            ("grpc.so_reuseport", 0),  # else a second server on the port would silently share its requests
            # Beyond max_request_bytes our own answer names the limit; beyond this gRPC refuses to read on.
            ("grpc.max_receive_message_length", 4 * self._options.max_request_bytes),
        ]
        self._grpc = grpc.aio.server(options=options)
        self._grpc.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME),
            self._grpc,
        )
        try:
            port = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise OperationalError(f"cannot listen on {address}: {error}", help="choose another --port") from error
        await self._grpc.start()
        return port

    def _load(self) -> Translator:
        options = self._options
        translator = Translator(
            self._bundle,
            variant=options.variant,
            threads=options.threads,
            max_beam_size=options.max_beam_size,
            max_extra_length=options.max_extra_length,
        )
        translator.warm_up()
        return translator

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)


def _require_bindable(host: str, port: int) -> None:
    """Says in one sentence why an address cannot be had; gRPC would also write its own account to stderr."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OperationalError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            help="choose another --port (0 takes a free one), or stop what uses it",
        ) from error
