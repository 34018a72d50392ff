"""A gRPC server that answers nothing until it has as many requests as the test wants to see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.v1 import translation_pb2 as pb


class Stalled:
    """Counts requests; at `release_at` of them it begins to answer."""

    def __init__(self, release_at: int) -> None:
        self.seen = 0
        self.peers: set[str] = set()
        self.port = 0
        self._release_at = release_at
        self._released = asyncio.Event()

    async def translate(self, request: pb.TranslateRequest, context: Any) -> pb.TranslateResponse:
        self.seen += 1
        self.peers.add(context.peer())
        if self.seen >= self._release_at:
            self._released.set()
        await self._released.wait()
        return pb.TranslateResponse(
            translations=[
                pb.Translation(hypotheses=[pb.Hypothesis(text=source, tokens=2)], source_tokens=3)
                for source in request.sources
            ]
        )


@asynccontextmanager
async def stalled_server(release_at: int) -> AsyncIterator[Stalled]:
    """Started and stopped."""
    stalled, server = Stalled(release_at), grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        stalled.translate,
        request_deserializer=pb.TranslateRequest.FromString,
        response_serializer=pb.TranslateResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Translate": handler}),))
    stalled.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield stalled
    finally:
        await server.stop(0)
