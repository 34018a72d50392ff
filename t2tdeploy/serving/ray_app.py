"""Our own services on Ray Serve: the same protos and statuses, behind Ray's gRPC proxy, with replicas and autoscaling.

    serve start --grpc-port 50051 --grpc-servicer-functions t2tdeploy.serving.ray_app.add_services
    serve run t2tdeploy.serving.ray_app:app bundle=bundles/ende min_replicas=2

Ray chooses the replica; in it the frontend, the queue and the batches are those of `t2tdeploy serve`. Ray's proxy does
not tell a replica the deadline of a call; but when it passes, the client cancels, and the cancellation takes the
sentences out of the queue. A request whose replica dies is answered with INTERNAL, by the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext

from t2tdeploy.errors import RequestError
from t2tdeploy.progress import SilentReporter
from t2tdeploy.serving.answering import hints_of
from t2tdeploy.serving.classification_messages import SERVICE as CLASSIFICATION
from t2tdeploy.serving.classification_service import ClassificationService
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.ray_options import AppOptions
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.scheduler import UnavailableError
from t2tdeploy.serving.service import TranslationService
from t2tdeploy.serving.status import status_of
from t2tdeploy.serving.unreadable import UNREADABLE

METHODS: dict[str, dict[str, Callable[..., Any]]] = {
    SERVICE: {
        "Translate": grpc.unary_unary_rpc_method_handler,
        "TranslateStream": grpc.unary_stream_rpc_method_handler,
        "ListModels": grpc.unary_unary_rpc_method_handler,
    },
    CLASSIFICATION: {"Classify": grpc.unary_unary_rpc_method_handler},
    health.SERVICE_NAME: {"Check": grpc.unary_unary_rpc_method_handler},
}
"""What a replica answers, and how; each method of `Replica` has the name of the RPC."""

logger = logging.getLogger("t2tdeploy.serving")


def app(args: dict[str, str]) -> serve.Application:
    """The application; `args` are those of `AppOptions`.

    Raises:
        SettingsError: an argument is unknown or out of range.
        InputError, CorruptFileError, UnreadableError: no bundle can be read where the application is built.
    """
    options = AppOptions.create(args)
    options.server_options()
    options.source()
    scaling: dict[str, Any] = {"num_replicas": options.min_replicas}
    if options.max_replicas is not None:
        scaling = {
            "autoscaling_config": {
                "min_replicas": options.min_replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": options.target_ongoing_requests,
            }
        }
    deployment = serve.deployment(
        name="translation",
        ray_actor_options={"num_cpus": options.cpus},
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        graceful_shutdown_timeout_s=options.server_options().shutdown_grace_seconds,
        **scaling,
    )(Replica)
    return deployment.bind(options.model_dump())


def add_services(servicer: object, server: Any) -> None:
    """For Ray's `grpc_servicer_functions`: names the methods to its proxy, which puts itself in the place of
    `servicer`. Requests stay bytes, so that what protobuf cannot read also gets a status of the table."""

    def never(request: bytes, context: Any) -> bytes:
        raise AssertionError("Ray's proxy answers in its place")

    for service, methods in METHODS.items():
        handlers: dict[str, Any] = {name: handler(never) for name, handler in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


class Replica:
    """One process with the model. It is ready when the constructor ends: bundles loaded, checked and warmed up."""

    async def __init__(self, values: dict[str, Any]) -> None:  # type: ignore[misc]  # Ray awaits it
        options = AppOptions.create(values)
        server = options.server_options()
        self._repository = ModelRepository(options.source(), server, _LogReporter())
        self._frontend = Frontend(self._repository, server)
        self._service = TranslationService(self._frontend)
        self._classification = ClassificationService(self._frontend)
        await self._repository.start()
        self._frontend.open()
        self._polling = (
            asyncio.create_task(self._repository.poll_forever(server.poll_seconds)) if server.poll_seconds else None
        )

    async def check_health(self) -> None:
        """For Ray, which replaces a replica that raises.

        Raises:
            UnavailableError: no model is served.
        """
        if not self._repository.models():
            raise UnavailableError("no model is served")

    async def Translate(self, content: bytes, grpc_context: RayServegRPCContext) -> _Message:  # noqa: N802
        """TranslateRequest -> TranslateResponse."""
        return await self._answer(self._service.translate, content, grpc_context)

    async def TranslateStream(self, content: bytes, grpc_context: RayServegRPCContext) -> AsyncIterator[_Message]:  # noqa: N802
        """TranslateDocumentRequest -> TranslateDocumentResponses. An error ends it without a hint when to try again: in
        a stream Ray sends metadata only along with a message."""
        try:
            async with contextlib.aclosing(self._service.translate_stream(content, _NO_DEADLINE)) as responses:
                async for response in responses:
                    yield _Message(response)
        except Exception as error:
            status = status_of(error)
            grpc_context.set_code(status.code)
            grpc_context.set_details(status.message)
            raise RuntimeError(status.message) from None

    async def Classify(self, content: bytes, grpc_context: RayServegRPCContext) -> _Message:  # noqa: N802
        """ClassifyRequest -> ClassifyResponse."""
        return await self._answer(self._classification.classify, content, grpc_context)

    async def ListModels(self, content: bytes, grpc_context: RayServegRPCContext) -> _Message:  # noqa: N802
        """ListModelsRequest -> ListModelsResponse."""
        return await self._answer(self._service.list_models, content, grpc_context)

    async def Check(self, content: bytes, grpc_context: RayServegRPCContext) -> _Message:  # noqa: N802
        """grpc.health.v1: of a replica, by way of the proxy; so `t2tdeploy.serving.health` works as with a server."""
        return await self._answer(self._check, content, grpc_context)

    async def _check(self, content: bytes, context: Any) -> bytes:
        try:
            request = health_pb2.HealthCheckRequest.FromString(content)
        except UNREADABLE:
            raise RequestError("request", "the bytes are not a HealthCheckRequest message") from None
        if request.service not in ("", SERVICE, CLASSIFICATION):
            self._repository.find(*request.service.split(":", 1))
        return bytes(health_pb2.HealthCheckResponse(status="SERVING").SerializeToString())

    async def _answer(
        self, method: Callable[[bytes, Any], Awaitable[bytes]], content: bytes, context: RayServegRPCContext
    ) -> _Message:
        """Ray turns what is raised into a status without metadata; what is set on its context arrives whole."""
        try:
            return _Message(await method(content, _NO_DEADLINE))
        except Exception as error:
            status = status_of(error)
            context.set_code(status.code)
            context.set_details(status.message)
            if hints := hints_of(status):
                context.set_trailing_metadata(hints)
            return _Message(b"")


class _Message:
    """Bytes that look to Ray like a message."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self._content


class _NoDeadline:
    """In the place of gRPC's context, of which services ask only this."""

    def time_remaining(self) -> None:
        return None


_NO_DEADLINE: Any = _NoDeadline()


class _LogReporter(SilentReporter):
    """Ray keeps what replicas log."""

    def event(self, name: str, **data: Any) -> None:
        logger.info("%s %s", name, data)
