"""The protocol's methods over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from t2tdeploy.serving.answering import (
    LARGE_BYTES,
    RETRY_AFTER,
    Context,
    abort,
    cancelled_status,
    deadline_of,
    in_thread_if,
    unary,
)
from t2tdeploy.serving.call_record import CallRecord, current_record, sane_id, set_current
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.gate import current_gate
from t2tdeploy.serving.inference import metadata
from t2tdeploy.serving.inference.core import FINAL_RESPONSE, InferenceCore
from t2tdeploy.serving.inference.messages import parse, parse_infer_request, read_infer, write_infer
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb
from t2tdeploy.serving.scheduler import UnavailableError
from t2tdeploy.serving.status import status_of

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
STREAM_REQUESTS = 64
"""Requests of one stream that are under way at once, or answered and not yet sent; a client that sends more waits."""

M = TypeVar("M", bound=Message)
P = TypeVar("P")


class InferenceService:
    """Answers through a `Frontend`, with statuses of the error table."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._core = InferenceCore(frontend)
        self._readers: set[asyncio.Task[None]] = set()
        self._closed = False

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, for `grpc.aio.Server.add_generic_rpc_handlers`."""
        frontend = self._frontend
        asked: dict[str, Callable[[bytes, Context], Awaitable[bytes]]] = {
            "ServerLive": self._state(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            "ServerReady": self._state(
                pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=metadata.server_ready(frontend))
            ),
            "ModelReady": self._state(
                pb.ModelReadyRequest,
                lambda one: pb.ModelReadyResponse(ready=metadata.model_ready(frontend, one.name, one.version)),
            ),
            "ServerMetadata": self._state(pb.ServerMetadataRequest, lambda _: metadata.server_metadata()),
            "ModelMetadata": self._accepted(
                pb.ModelMetadataRequest, lambda one: metadata.model_metadata(frontend, one.name, one.version)
            ),
            "ModelConfig": self._accepted(
                pb.ModelConfigRequest,
                lambda one: pb.ModelConfigResponse(config=metadata.model_config(frontend, one.name, one.version)),
            ),
            "ModelStatistics": self._accepted(
                pb.ModelStatisticsRequest, lambda one: metadata.model_statistics(frontend, one.name, one.version)
            ),
            "RepositoryIndex": self._accepted(pb.RepositoryIndexRequest, partial(metadata.repository_index, frontend)),
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
            "ModelInfer": self.infer,
        }
        handlers = {name: unary(method, frontend.answers) for name, method in asked.items()}
        stream: Any = grpc.stream_stream_rpc_method_handler(self.stream_infer)
        return grpc.method_handlers_generic_handler(SERVICE, {**handlers, "ModelStreamInfer": stream})

    def close(self) -> None:
        """Ends the streams that are open, with UNAVAILABLE; what they have asked is still answered."""
        self._closed = True
        for reader in self._readers:
            reader.cancel()

    async def infer(self, content: bytes, context: Context) -> bytes:
        """ModelInferRequest -> ModelInferResponse."""
        with self._frontend.accepting(len(content)):
            message, unknown = await _parsed(parse_infer_request, content)
            response = await self._infer(message, unknown, len(content), deadline_of(context))
            response.parameters.pop(FINAL_RESPONSE, None)  # a word of streams
            return response.SerializeToString()

    async def stream_infer(self, contents: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """ModelInferRequest, any number -> ModelStreamInferResponse, one for each, in order."""
        call, gate = current_record() or CallRecord(sane_id(None), SERVICE, "ModelStreamInfer", "grpc"), current_gate()
        slots, room = gate.stream_slots(call), asyncio.Semaphore(STREAM_REQUESTS)
        under_way: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        tasks: set[asyncio.Task[Any]] = set()

        def start(work: Any) -> asyncio.Task[Any]:
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        async def read() -> None:
            try:
                async for content in contents:
                    record = call.of_request()
                    await room.acquire()
                    place = await slots.take()
                    task = start(self._answer_in_stream(content, context, record))
                    task.add_done_callback(partial(ended, record, place))
                    under_way.put_nowait(task)
            finally:
                under_way.put_nowait(None)  # waits for nothing: who takes from the queue may be gone

        def ended(record: CallRecord, place: contextlib.ExitStack, _: asyncio.Task[Any]) -> None:
            place.close()
            gate.ended(record, record.status or cancelled_status(context))

        reader = start(read())
        self._readers.add(reader)
        try:
            while task := await under_way.get():
                yield await task
                room.release()
            await asyncio.wait([reader])
            if self._closed:
                await abort(UnavailableError("the server is stopping"), context, self._frontend.answers)
            reader.result()
        finally:
            self._readers.discard(reader)
            for task in tasks:
                task.cancel()

    async def load(self, content: bytes, context: Context) -> bytes:
        """RepositoryModelLoadRequest -> RepositoryModelLoadResponse."""
        with self._frontend.accepting(len(content)):
            request = await _parsed(partial(parse, pb.RepositoryModelLoadRequest), content)
            metadata.require_only_repository(request.repository_name)
            await self._core.load(request.model_name, request.parameters)
            return pb.RepositoryModelLoadResponse().SerializeToString()

    async def unload(self, content: bytes, context: Context) -> bytes:
        """RepositoryModelUnloadRequest -> RepositoryModelUnloadResponse."""
        with self._frontend.accepting(len(content)):
            request = await _parsed(partial(parse, pb.RepositoryModelUnloadRequest), content)
            metadata.require_only_repository(request.repository_name)
            await self._core.unload(request.model_name, request.parameters)
            return pb.RepositoryModelUnloadResponse().SerializeToString()

    async def _infer(
        self, message: pb.ModelInferRequest, unknown: bool, size: int, deadline: float | None
    ) -> pb.ModelInferResponse:
        with self._core.using(message.model_name, message.model_version) as (model, interface):
            interface.require_counts(len(message.inputs), len(message.outputs), len(message.parameters))
            read = partial(read_infer, message, look_for_unknown=unknown)
            request = await in_thread_if(unknown and size > LARGE_BYTES, read)
            answer = await self._core.infer(model, interface, request, size, deadline)
        large = sum(tensor.values.nbytes for tensor in answer.tensors)
        response: pb.ModelInferResponse = await in_thread_if(large > 1_000_000, write_infer, answer)
        return response

    async def _answer_in_stream(self, content: bytes, context: Context, record: CallRecord) -> bytes:
        set_current(record)
        message, answers = pb.ModelInferRequest(), self._frontend.answers
        try:
            with self._frontend.accepting(len(content)):
                message, unknown = await _parsed(parse_infer_request, content)
                response = await self._infer(message, unknown, len(content), deadline_of(context))
        except Exception as error:
            status = status_of(error)
            record.status = status.code.name
            answers[record.status] += 1
            response = pb.ModelInferResponse(id=message.id)
            if status.retry_after is not None:
                response.parameters[RETRY_AFTER].int64_param = round(status.retry_after * 1000)
            text = f"{record.status}: {status.message}"
            return pb.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()
        record.status = "OK"
        answers["OK"] += 1
        return pb.ModelStreamInferResponse(infer_response=response).SerializeToString()

    def _state(self, kind: type[M], answer: Callable[[M], Message]) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """A method that answers whatever state the server is in."""

        async def method(content: bytes, context: Context) -> bytes:
            return answer(await _parsed(partial(parse, kind), content)).SerializeToString()

        return method

    def _accepted(self, kind: type[M], answer: Callable[[M], Message]) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """A method that answers while the server serves."""

        async def method(content: bytes, context: Context) -> bytes:
            with self._frontend.accepting(len(content)):
                return answer(await _parsed(partial(parse, kind), content)).SerializeToString()

        return method


async def _parsed(parse: Callable[[bytes], P], content: bytes) -> P:
    parsed: P = await in_thread_if(len(content) > LARGE_BYTES, parse, content)
    return parsed
