"""The method of ClassificationService: from its messages to the frontend and back."""

from __future__ import annotations

import grpc

from t2tdeploy.serving.answering import LARGE_BYTES, Context, deadline_of, in_thread_if, unary
from t2tdeploy.serving.classification_messages import (
    SERVICE,
    parse_classify_request,
    read_classify_request,
    write_classify_response,
)
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.v1 import classification_pb2 as pb


class ClassificationService:
    """Classify."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend

    def handler(self) -> grpc.GenericRpcHandler:
        """The method, for `grpc.aio.Server.add_generic_rpc_handlers`."""
        return grpc.method_handlers_generic_handler(SERVICE, {"Classify": unary(self.classify, self._frontend.answers)})

    async def classify(self, content: bytes, context: Context) -> bytes:
        """ClassifyRequest -> ClassifyResponse."""
        with self._frontend.accepting(len(content)):
            response = await self.answer(parse_classify_request(content), deadline_of(context))
            return response.SerializeToString()

    async def answer(self, request: pb.ClassifyRequest, deadline: float | None) -> pb.ClassifyResponse:
        """Answers a request, within `Frontend.accepting`; raises what `Frontend.classify` does.

        Args:
            deadline: on the clock of the event loop; None: there is none.
        """
        given = len(request.texts) + len(request.images) + len(request.examples)
        self._frontend.require_at_most("examples", given)
        # An example may have any number of features.
        call = await in_thread_if(request.ByteSize() > LARGE_BYTES, read_classify_request, request, deadline)
        return write_classify_response(await self._frontend.classify(call))
