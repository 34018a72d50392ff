"""The methods of TranslationService: from its messages to the frontend and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import grpc

from t2tdeploy.errors import RequestError
from t2tdeploy.serving.answering import Context, deadline_of, server_stream, unary
from t2tdeploy.serving.document_messages import DocumentWriter, parse_document_request
from t2tdeploy.serving.document_stream import DOCUMENT_PRIORITY, DocumentCall, stream_document
from t2tdeploy.serving.frontend import Frontend, TranslateCall
from t2tdeploy.serving.messages import SERVICE, parse_request, read_options, write_model, write_response
from t2tdeploy.serving.unreadable import UNREADABLE
from t2tdeploy.serving.v1 import translation_pb2 as pb


class TranslationService:
    """Translate, TranslateStream and ListModels."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, for `grpc.aio.Server.add_generic_rpc_handlers`."""
        methods = {"Translate": self.translate, "ListModels": self.list_models}
        handlers = {name: unary(method, self._frontend.answers) for name, method in methods.items()}
        handlers["TranslateStream"] = server_stream(self.translate_stream, self._frontend.answers)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def translate(self, content: bytes, context: Context) -> bytes:
        """TranslateRequest -> TranslateResponse."""
        with self._frontend.accepting(len(content)):
            request = parse_request(content)
            response = await self.answer(request, deadline_of(context))
            if not request.options.return_tokens and not request.options.return_attention:
                return response.SerializeToString()
            return await asyncio.to_thread(response.SerializeToString)  # long: the event loop goes on

    async def answer(self, request: pb.TranslateRequest, deadline: float | None) -> pb.TranslateResponse:
        """Answers a request, within `Frontend.accepting`; raises what `Frontend.translate` does.

        Args:
            deadline: on the clock of the event loop; None: there is none.
        """
        options = read_options(request.options)
        call = TranslateCall(
            list(request.sources),
            options,
            list(request.target_prefixes),
            model=request.model,
            version=request.model_version,
            deadline=deadline,
            priority=request.priority,
        )
        found = await self._frontend.translate(call)
        if not found.key.tokens:
            return write_response(found, source_pieces=False)
        return await asyncio.to_thread(write_response, found, source_pieces=options.return_attention)

    def models(self) -> pb.ListModelsResponse:
        """The models that serve."""
        models = [write_model(model, self._frontend.options) for model in self._frontend.repository.models()]
        return pb.ListModelsResponse(models=models)

    async def translate_stream(self, content: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        """TranslateDocumentRequest -> TranslateDocumentResponses."""
        with self._frontend.accepting(len(content)):
            request = parse_document_request(content)
            options = read_options(request.options)
            model = self._frontend.repository.find(request.model, request.model_version)
            priority = request.priority if request.HasField("priority") else DOCUMENT_PRIORITY
            call = DocumentCall(request.document, options, request.language, priority, deadline_of(context))
            writer = DocumentWriter(model, request.document, source_pieces=options.return_attention)
            with model.used():
                async with contextlib.aclosing(stream_document(self._frontend, model, call)) as parts:
                    async for part in parts:
                        yield writer.sentence(part).SerializeToString()
            yield writer.end().SerializeToString()

    async def list_models(self, content: bytes, context: Context) -> bytes:
        """ListModelsRequest -> ListModelsResponse."""
        with self._frontend.accepting(len(content)):
            try:
                pb.ListModelsRequest.FromString(content)
            except UNREADABLE:
                raise RequestError("request", "the bytes are not a ListModelsRequest message") from None
            return self.models().SerializeToString()
