"""The gRPC server: from bundles to a port that answers, and back to a clean exit."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from t2tdeploy.errors import OperationalError
from t2tdeploy.progress import Reporter
from t2tdeploy.serving.bundle_source import BundleSource, label_of
from t2tdeploy.serving.classification_messages import SERVICE as CLASSIFICATION
from t2tdeploy.serving.classification_service import ClassificationService
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.health_service import HealthService
from t2tdeploy.serving.inference import service as inference
from t2tdeploy.serving.inference.descriptors import ReflectedPool
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.operations import Operations
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.service import TranslationService

if TYPE_CHECKING:
    from t2tdeploy.serving.http import HttpServer

_SERVICES = (SERVICE, CLASSIFICATION, inference.SERVICE)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FLUSH_SECONDS = 1.0
"""For answers on their way to the client when the port closes; open health watches end with it."""


def serve(source: BundleSource, options: ServerOptions, reporter: Reporter) -> None:
    """Serves bundles until SIGTERM or SIGINT, then finishes the accepted requests and returns. Main thread only.

    A signal while models load ends the start; the model that is being loaded is loaded to its end first.

    Reports the events `loaded` (model, number, version, variant, threads), `serving` (host, port, http_port,
    metrics_port, models, workers, and with the page ui, its address), `broken` (model, number, reason), `unloaded`,
    `stopping` and `stopped`. A second signal waits for no request, SIGTERM after `stopped` for nothing.

    Raises:
        InputError, CorruptFileError, UnreadableError: a bundle, or the repository, cannot be read.
        UnknownNameError: it has no such variant.
        OperationalError: the port cannot be had, or the variant is made for another kind of machine.
    """
    asyncio.run(_serve_until_signal(source, options, reporter))


async def _serve_until_signal(source: BundleSource, options: ServerOptions, reporter: Reporter) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    server = Server(source, options, reporter)
    starting = loop.create_task(server.start())

    def signalled() -> None:
        if stopping.is_set():
            server.hurry()
        stopping.set()
        starting.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, signalled)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        await stopping.wait()
    finally:
        await server.stop()
        # A thread that still loads a model is waited for, as nothing can interrupt it; a further SIGTERM ends that.
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class Server:
    """A server, on the running event loop. Nothing happens before `start`."""

    def __init__(self, source: BundleSource, options: ServerOptions, reporter: Reporter) -> None:
        self.port: int | None = None
        self.http_port: int | None = None
        self.ui_url: str | None = None
        self.operations = Operations(options)
        reporter = self.operations.listen(reporter)
        self.repository = ModelRepository(source, options, reporter, self._set_health, self.operations.watch)
        self._options = options
        self._reporter = reporter
        self._hurry = asyncio.Event()
        self._frontend = Frontend(self.repository, options)
        self._inference = inference.InferenceService(self._frontend)
        self._services = (
            TranslationService(self._frontend), ClassificationService(self._frontend), self._inference
        )  # fmt: skip
        self._health = HealthService()
        self._grpc: grpc.aio.Server | None = None
        self._http: HttpServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._known_names: set[str] = set()

    @property
    def answers(self) -> Counter[str]:
        """Calls answered so far, by status name."""
        return self._frontend.answers

    @property
    def batches(self) -> int:
        """Batches run so far, the warm-up not counted."""
        return self.repository.batches

    async def start(self) -> int:
        """Binds the ports, loads the models, warms them up, then serves. Until then requests get UNAVAILABLE.

        May be cancelled before it serves.

        Returns:
            The port.

        Raises:
            OperationalError: a port cannot be had.
            InputError, CorruptFileError, UnreadableError: a bundle, or the repository, cannot be read.
            UnknownNameError: a bundle has no such variant, or an alias names no model.
        """
        self._set_health()
        self.port = await self._bind()
        if (http_port := self._options.bound_http_port) is not None:
            self.http_port = await self._start_http(http_port)
        await self.operations.start(self.repository, lambda: self._frontend.ready)
        await self.repository.start()
        self._frontend.open()
        self._set_health()
        self._reporter.event(
            "serving",
            host=self._options.host,
            port=self.port,
            http_port=self.http_port,
            metrics_port=self.operations.metrics_port,
            models=[model.label for model in self.repository.models()],
            workers=self._options.batches_at_once,
            **({"ui": self.ui_url} if self.ui_url else {}),
        )
        if self._options.poll_seconds:
            self._in_background(self.repository.poll_forever(self._options.poll_seconds))
        return self.port

    async def stop(self) -> None:
        """Health and readiness say no, then new requests get UNAVAILABLE, accepted ones finish, the port closes."""
        if self._grpc is None:
            return
        self._frontend.leave()
        pause = self._options.lame_duck_seconds if self._frontend.serving else 0.0
        self._set_health()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reporter.event("stopping", lame_duck_seconds=pause, grace_seconds=self._options.shutdown_grace_seconds)
        await self._drain(pause)
        unfinished = await self._frontend.close(0)
        self._inference.close()
        batches = self.batches
        await self.repository.close()
        if self._http:
            await self._http.stop()
        await self._grpc.stop(_FLUSH_SECONDS)
        await self.operations.stop()
        self._grpc = None
        self._reporter.event("stopped", answers=dict(self.answers), unfinished=unfinished, batches=batches)

    def hurry(self) -> None:
        """`stop` waits no longer: what is not answered now gets UNAVAILABLE."""
        self._hurry.set()

    async def _drain(self, pause: float) -> None:
        """Waits for load balancers to see that the server leaves, then for accepted requests, or for `hurry`."""

        async def wait() -> None:
            await asyncio.sleep(pause)
            await self._frontend.close(self._options.shutdown_grace_seconds)

        tasks = {asyncio.create_task(wait()), asyncio.create_task(self._hurry.wait())}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_health(self) -> None:
        """Health is known of the server (""), its services, every model, and every version as name:number."""
        entries = self.repository.entries()
        ready = self._frontend.ready and any(entry.model for entry in entries)
        names = dict.fromkeys(self._known_names, False) | dict.fromkeys(("", *_SERVICES), ready)
        for entry in entries:
            state = self._frontend.ready and entry.model is not None
            names[entry.name] = names.get(entry.name, False) or state
            if entry.number:  # else it says something of the model as a whole
                names[label_of(entry.name, entry.number)] = state
        self._known_names = set(names)
        self._health.set(names)

    async def _bind(self) -> int:
        address = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        address = f"{address}:{self._options.port}"
        _require_bindable(self._options.host, self._options.port)
        options = [
            ("grpc.so_reuseport", 0),  # else a second server on the port would silently share its requests
            # Beyond max_request_bytes our own answer names the limit; beyond this gRPC refuses to read on.
            ("grpc.max_receive_message_length", 4 * self._options.max_request_bytes),
        ]
        self._grpc = self.operations.make_server(options)
        self._grpc.add_generic_rpc_handlers([service.handler() for service in self._services])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc, pool=ReflectedPool()
        )
        port = self.operations.add_port(self._grpc, address)
        await asyncio.shield(self._grpc.start())  # gRPC cannot stop a server that is half started
        return port

    async def _start_http(self, port: int) -> int:
        from t2tdeploy.serving.classification_http import add_classification_routes
        from t2tdeploy.serving.http import HttpServer  # aiohttp takes a while to import
        from t2tdeploy.serving.http_gate import http_gate
        from t2tdeploy.serving.inference.rest import add_inference_routes
        from t2tdeploy.serving.other_sites import refuse_unasked
        from t2tdeploy.serving.page import add_page_routes, page_url
        from t2tdeploy.serving.translation_http import add_translation_routes

        self._http = HttpServer(
            self._frontend,
            [
                add_translation_routes,
                add_classification_routes,
                add_inference_routes,
                *([add_page_routes] if self._options.ui else []),
            ],
            middlewares=[http_gate(self.operations.gate, self.answers), refuse_unasked],
            tls=self.operations.tls.ssl_context() if self.operations.tls else None,
        )
        bound = await self._http.start(self._options.host, port)
        if self._options.ui:
            self.ui_url = page_url(self._options.host, bound, scheme="https" if self.operations.tls else "http")
        return bound


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
