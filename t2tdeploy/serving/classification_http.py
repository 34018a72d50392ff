"""ClassificationService as JSON over HTTP, by protobuf's JSON mapping: POST /v1/classify. Bytes are base64 there."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from t2tdeploy.serving.classification_service import ClassificationService
from t2tdeploy.serving.http import Routes
from t2tdeploy.serving.translation_http import count_of, header_deadline, parse_json, write_json
from t2tdeploy.serving.v1 import classification_pb2 as pb


def add_classification_routes(routes: Routes) -> None:
    """Classify."""
    service = ClassificationService(routes.frontend)

    def require_counts(fields: dict[str, Any]) -> None:
        given = sum(count_of(fields, name) for name in ("texts", "images", "examples"))
        routes.frontend.require_at_most("examples", given)

    async def classify(request: web.Request, body: bytes) -> web.Response:
        deadline = header_deadline(request)
        message = await asyncio.to_thread(parse_json, body, pb.ClassifyRequest(), require_counts)
        response = await service.answer(message, deadline)
        return web.Response(body=await asyncio.to_thread(write_json, response), content_type="application/json")

    routes.post("/v1/classify", classify)
