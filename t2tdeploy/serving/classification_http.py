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

    def prepare(fields: dict[str, Any]) -> None:
        given = sum(count_of(fields, name) for name in ("texts", "images", "examples"))
        routes.frontend.require_at_most("examples", given)
        _leave_out_nulls(fields.get("examples"))

    async def classify(request: web.Request, body: bytes) -> web.Response:
        deadline = header_deadline(request)
        message = await asyncio.to_thread(parse_json, body, pb.ClassifyRequest(), prepare)
        response = await service.answer(message, deadline)
        return web.Response(body=await asyncio.to_thread(write_json, response), content_type="application/json")

    routes.post("/v1/classify", classify)


def _leave_out_nulls(examples: Any) -> None:
    """A null in the place of a value says that it is missing, which protobuf's mapping has no word for."""
    for example in examples if isinstance(examples, list) else []:
        features = example.get("features") if isinstance(example, dict) else None
        if isinstance(features, dict):
            example["features"] = {name: value for name, value in features.items() if value is not None}
