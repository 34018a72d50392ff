"""TranslationService as JSON over HTTP, by protobuf's JSON mapping: POST /v1/translate, GET /v1/models."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from t2tdeploy.errors import RequestError
from t2tdeploy.serving.http import Routes
from t2tdeploy.serving.inference.json_messages import parse_object
from t2tdeploy.serving.service import TranslationService
from t2tdeploy.serving.v1 import translation_pb2 as pb

TIMEOUT = "Grpc-Timeout"
"""Header with how long the answer may take, e.g. "500m" or "2S", as gRPC and its gateways write it."""

M = TypeVar("M", bound=Message)

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def add_translation_routes(routes: Routes) -> None:
    """Translate and ListModels."""
    service = TranslationService(routes.frontend)

    def require_counts(fields: dict[str, Any]) -> None:
        for name in ("sources", "target_prefixes", "targetPrefixes"):
            routes.frontend.require_at_most(name, count_of(fields, name))

    async def translate(request: web.Request, body: bytes) -> web.Response:
        deadline = header_deadline(request)
        message = await asyncio.to_thread(parse_json, body, pb.TranslateRequest(), require_counts)
        response = await service.answer(message, deadline)
        return web.Response(body=await asyncio.to_thread(write_json, response), content_type="application/json")

    async def models(request: web.Request) -> web.Response:
        return web.Response(body=write_json(service.models()), content_type="application/json")

    routes.post("/v1/translate", translate)
    routes.get("/v1/models", models)


def parse_json(body: bytes, message: M, prepare: Callable[[dict[str, Any]], None]) -> M:
    """Fills a request's message.

    Args:
        prepare: refuses an object with more elements than a request may have, before each is read, and may change it.

    Raises:
        RequestError: the body is no JSON of it.
    """
    fields = parse_object(body)
    prepare(fields)
    try:
        return json_format.ParseDict(fields, message)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        text = str(error)
        raise RequestError("request", text if len(text) < 300 else text[:299] + "…") from None


def count_of(fields: dict[str, Any], name: str) -> int:
    """Elements of a field that may be a list."""
    return len(found) if isinstance(found := fields.get(name), list) else 0


def write_json(message: Message) -> bytes:
    """A response as JSON, fields at their defaults included."""
    text = json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=None,
        ensure_ascii=False,
    )
    return text.encode()


def header_deadline(request: web.Request) -> float | None:
    """When an answer comes too late, on the clock of the event loop; None: any time will do.

    Raises:
        RequestError: the header cannot be read.
    """
    text = request.headers.get(TIMEOUT)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,8}[HMSmun]", text):
        raise RequestError(TIMEOUT, f"'{text[:20]}' is not a number with a unit", help="e.g. 500m, or 2S")
    return asyncio.get_running_loop().time() + int(text[:-1]) * _UNITS[text[-1]]
