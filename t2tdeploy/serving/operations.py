"""What operators have asked of one server, made of its options: TLS, the gate, logs, metrics, spans."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from t2tdeploy.errors import OperationalError
from t2tdeploy.progress import Reporter
from t2tdeploy.serving.access_log import log_access
from t2tdeploy.serving.auth import Authenticator, TokenFile
from t2tdeploy.serving.call_record import RecordSink
from t2tdeploy.serving.channel import is_local
from t2tdeploy.serving.client_slots import ClientSlots
from t2tdeploy.serving.gate import Gate
from t2tdeploy.serving.grpc_gate import GrpcGate
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.served_model import ServedModel
from t2tdeploy.serving.tls import ServerTls
from t2tdeploy.serving.tracing import Spans, otlp_exporter

if TYPE_CHECKING:
    from t2tdeploy.serving.metrics import ModelState, ServerMetrics

logger = logging.getLogger("t2tdeploy.serving")


class Operations:
    """Made before a server starts, so that faulty files are told before a port is bound.

    Attributes:
        gate: what every call passes.
        tls: the server's certificate; None: it speaks plain text.
        metrics: what Prometheus is told; None: nobody asks.
        metrics_port: that it is told from; None: it is not open.

    Raises:
        InputError: a certificate, key or token file is not as it must be.
        OperationalError: a package for what is asked is not installed.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self.tls = ServerTls(options.tls_files) if options.tls_files else None
        tokens = TokenFile(options.token_file) if options.token_file else None
        if tokens and not self.tls and not is_local(options.host):
            logger.warning("tokens come unencrypted to %s: give tls_certificate and tls_key", options.host)
        sinks: list[RecordSink] = [log_access] if options.access_log else []
        self.metrics: ServerMetrics | None = None
        self.metrics_port: int | None = None
        if options.metrics_port is not None:
            from t2tdeploy.serving.metrics import ServerMetrics  # aiohttp takes a while to import
            from t2tdeploy.serving.metrics_server import MetricsServer

            self.metrics = ServerMetrics()
            self._metrics_server = MetricsServer(self.metrics.registry)
            sinks.append(self.metrics.call_ended)
        self._spans: Spans | None = None
        if options.otlp_endpoint:
            self._spans = Spans(otlp_exporter(options.otlp_endpoint))
            sinks.append(self._spans)
        self.gate = Gate(Authenticator(tokens), ClientSlots(options.max_requests_per_client), sinks)

    def listen(self, reporter: Reporter) -> Reporter:
        """`reporter`, with metrics listening to what it is told of models."""
        return self.metrics.listening(reporter) if self.metrics else reporter

    def watch(self, model: ServedModel) -> None:
        """Counts the batches of a model that begins to serve."""
        if self.metrics:
            model.scheduler.subscribe(self.metrics.observer(model.name, str(model.number)))

    def make_server(self, arguments: list[tuple[str, Any]]) -> grpc.aio.Server:
        """A gRPC server whose calls pass the gate, and which keeps the limits that gRPC knows itself."""
        return grpc.aio.server(
            interceptors=[GrpcGate(self.gate, certificates=self.tls is not None)],
            options=[*arguments, *self._options.channel_arguments()],
        )

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Binds `address`, encrypted if the options say so.

        Raises:
            OperationalError: it cannot be had.
        """
        try:
            if self.tls:
                return server.add_secure_port(address, self.tls.grpc_credentials())
            return server.add_insecure_port(address)
        except RuntimeError as error:
            raise OperationalError(f"cannot listen on {address}: {error}", help="choose another --port") from error

    async def start(self, repository: ModelRepository, ready: Callable[[], bool]) -> None:
        """Opens the port of metrics, if there is to be one.

        Args:
            ready: whether requests should come to the server now.

        Raises:
            OperationalError: it cannot be had.
        """
        if self.metrics and self._options.metrics_port is not None:
            self.metrics.watch(
                ready,
                lambda: [_state(model, self._options) for model in repository.models()],
                repository.not_loaded,
            )
            self.metrics_port = await self._metrics_server.start(self._options.host, self._options.metrics_port)

    async def stop(self) -> None:
        """Closes the port of metrics and sends the last spans."""
        if self.metrics:
            await self._metrics_server.stop()
        if self._spans:
            await asyncio.to_thread(self._spans.close)


def _state(model: ServedModel, options: ServerOptions) -> ModelState:
    from t2tdeploy.serving.metrics import ModelState

    variant = options.variant or model.bundle.manifest.default_variant
    return ModelState(model.name, str(model.number), model.bundle.version, variant, model.scheduler.state())
