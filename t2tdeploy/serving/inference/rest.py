"""The protocol's methods over HTTP, Triton's additions included.

Source: https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web
from google.protobuf.message import Message

from t2tdeploy.errors import RequestError
from t2tdeploy.serving.answering import LARGE_BYTES, in_thread_if
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.http import Handler, Routes, json_response
from t2tdeploy.serving.inference import metadata
from t2tdeploy.serving.inference.core import InferenceCore
from t2tdeploy.serving.inference.json_messages import HEADER_LENGTH, parse_infer, parse_object, plain, write_infer
from t2tdeploy.serving.inference.tensors import shown
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb
from t2tdeploy.serving.scheduler import UnavailableError


def add_inference_routes(routes: Routes) -> None:
    """Everything under /v2."""
    frontend, methods = routes.frontend, _Methods(routes.frontend)
    routes.get("/v2/health/live", methods.live, always=True)
    routes.get("/v2/health/ready", methods.ready, always=True)
    routes.get("/v2", methods.server, always=True)
    # /v2/models/stats is Triton's path for all models; the metadata of a model of this name cannot be asked for.
    routes.get("/v2/models/stats", _told(lambda *_: metadata.model_statistics(frontend, "", "")))
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes.get(path, _told(partial(metadata.model_metadata, frontend)))
        routes.get(f"{path}/ready", methods.model_ready)
        routes.get(f"{path}/config", _told(partial(metadata.model_config, frontend)))
        routes.get(f"{path}/stats", _told(partial(metadata.model_statistics, frontend)))
        routes.post(f"{path}/infer", methods.infer)
    routes.post("/v2/repository/index", methods.index)
    routes.post("/v2/repository/models/{model}/load", methods.load)
    routes.post("/v2/repository/models/{model}/unload", methods.unload)


class _Methods:
    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._core = InferenceCore(frontend)

    async def live(self, request: web.Request) -> web.Response:
        return json_response({"live": True})

    async def ready(self, request: web.Request) -> web.Response:
        state = metadata.server_ready(self._frontend)
        return json_response({"ready": state}, status=200 if state else 503)

    async def server(self, request: web.Request) -> web.Response:
        return json_response(plain(metadata.server_metadata()))

    async def model_ready(self, request: web.Request) -> web.Response:
        name, version = _model(request)
        self._frontend.repository.find(name, version)
        if not self._frontend.ready:
            raise UnavailableError("the server is stopping")
        return json_response({"name": name, "ready": True})

    async def infer(self, request: web.Request, body: bytes) -> web.Response:
        large, header, named = len(body) > LARGE_BYTES, request.headers.get(HEADER_LENGTH), _model(request)
        with self._core.using(*named) as (model, interface):
            asked = await in_thread_if(large, parse_infer, body, header, *named, interface.require_counts)
            asked.require_same_model(named[0], model.name, (str(model.number), model.bundle.version))
            answer = await self._core.infer(model, interface, asked.request, len(body), None)
        size = sum(tensor.values.nbytes for tensor in answer.tensors)
        content, header_length = await in_thread_if(size > LARGE_BYTES, write_infer, answer, asked)
        if header_length is None:
            return web.Response(body=content, content_type="application/json")
        headers = {HEADER_LENGTH: str(header_length)}
        return web.Response(body=content, content_type="application/octet-stream", headers=headers)

    async def index(self, request: web.Request, body: bytes) -> web.Response:
        fields = _fields(body, "ready")
        if not isinstance(fields.get("ready", False), bool):
            raise RequestError("ready", "neither true nor false")
        found = metadata.repository_index(self._frontend, pb.RepositoryIndexRequest(**fields))
        return json_response(plain(found)["models"])

    async def load(self, request: web.Request, body: bytes) -> web.Response:
        await self._core.load(request.match_info["model"], _parameters(body))
        return json_response({})

    async def unload(self, request: web.Request, body: bytes) -> web.Response:
        await self._core.unload(request.match_info["model"], _parameters(body))
        return json_response({})


def _told(answer: Callable[[str, str], Message]) -> Handler:
    """A handler that answers with the message about the path's model."""

    async def handler(request: web.Request) -> web.Response:
        return json_response(plain(answer(*_model(request))))

    return handler


def _model(request: web.Request) -> tuple[str, str]:
    return request.match_info.get("model", ""), request.match_info.get("version", "")


def _fields(body: bytes, only: str) -> dict[str, Any]:
    """The object of a body, which may be empty and may have this one field; null is as good as nothing."""
    fields = parse_object(body) if body.strip() else {}
    for name in fields.keys() - {only}:
        raise RequestError("request", f"unknown field '{shown(name)}'; valid choices: {only}")
    return {name: value for name, value in fields.items() if value is not None}


def _parameters(body: bytes) -> dict[str, Any]:
    parameters = _fields(body, "parameters").get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError("parameters", "not an object")
    return parameters
