"""The server's HTTP side: an aiohttp application on the server's event loop, and the port it answers on.

Who has routes writes a function `add(routes: Routes)`. Routes go through the same `Frontend` as gRPC, and what they
raise is answered by the same error table, as `{"error": "…"}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from t2tdeploy.errors import OperationalError, RequestError
from t2tdeploy.serving.answering import RETRY_AFTER
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.gate import SlowBodyError
from t2tdeploy.serving.status import status_of

BODY_SECONDS = 60.0
"""For a body to arrive."""

_FLUSH_SECONDS = 1.0
"""For answers on their way when the port closes."""

STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.CANCELLED: 408,  # by a client that sends only a part
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""Of the error table; all else is 500."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BodyHandler = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


class Routes:
    """The routes of an application.

    Attributes:
        frontend: that answers them.
    """

    def __init__(self, app: web.Application, frontend: Frontend) -> None:
        self.frontend = frontend
        self._app = app

    def get(self, path: str, handler: Handler, *, always: bool = False) -> None:
        """Answers GET.

        Args:
            always: even while the server is starting or stopping.
        """

        async def accepted(request: web.Request) -> web.StreamResponse:
            with self.frontend.accepting(0):
                return await handler(request)

        self._app.router.add_get(path, handler if always else accepted, allow_head=False)

    def post(self, path: str, handler: BodyHandler) -> None:
        """Answers POST; the handler gets the body, which is not larger than the server takes."""

        async def accepted(request: web.Request) -> web.StreamResponse:
            body = await _body(request)
            with self.frontend.accepting(len(body)):
                return await handler(request, body)

        self._app.router.add_post(path, accepted)


async def _body(request: web.Request) -> bytes:
    """
    Raises:
        SlowBodyError: it does not come.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise SlowBodyError(BODY_SECONDS) from None


class HttpServer:
    """A port that answers HTTP.

    Args:
        additions: put their routes into the application.
        middlewares: of aiohttp, around all of it; within them is what makes statuses of errors.
        tls: None: plain text.
    """

    def __init__(
        self,
        frontend: Frontend,
        additions: Sequence[Callable[[Routes], None]],
        *,
        middlewares: Sequence[Any] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._app = application(frontend, additions, middlewares)
        self._tls = tls
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Binds the port and answers from now on.

        Returns:
            The port.

        Raises:
            OperationalError: it cannot be had.
        """
        # A client that goes away ends its handler, so that its work leaves the queue.
        self._runner = web.AppRunner(
            self._app, handler_cancellation=True, access_log=None, logger=HTTP_LOGGER, shutdown_timeout=_FLUSH_SECONDS
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=self._tls)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise OperationalError(
                f"cannot listen on {host} port {port}: {error.strerror or error}",
                help="choose another http_port (0 takes a free one), or stop what uses it",
            ) from error
        found: int = self._runner.addresses[0][1]
        return found

    async def stop(self) -> None:
        """Closes the port, after the answers on their way to their clients."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None


class _HttpLogger(logging.LoggerAdapter[logging.Logger]):
    """For aiohttp, which logs a traceback of every request that is no HTTP. Anybody can send these, without a token."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **given: Any) -> None:
        """See logging.Logger."""
        if isinstance(exc_info, HttpProcessingError):
            self.debug("a request that is no HTTP, from %s: %s", args[0] if args else "?", type(exc_info).__name__)
        else:
            super().exception(msg, *args, exc_info=exc_info, **given)


HTTP_LOGGER = _HttpLogger(logging.getLogger("t2tdeploy.serving"))


def application(
    frontend: Frontend, additions: Sequence[Callable[[Routes], None]], middlewares: Sequence[Any] = ()
) -> web.Application:
    """The application with the routes of all `additions`."""
    # Beyond max_request_bytes our own answer names the limit; of more than this, not all is read.
    limit = 4 * frontend.options.max_request_bytes
    app = web.Application(client_max_size=limit, middlewares=[*middlewares, _error_table(frontend.answers)])
    for add in additions:
        add(Routes(app, frontend))
    return app


def json_response(fields: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A response whose body is JSON."""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return web.Response(body=text.encode(), status=status, content_type="application/json", headers=headers)


def error_response(error: Exception, answers: Counter[str]) -> web.Response:
    """The response of the error table.

    Args:
        answers: counts it.
    """
    status = status_of(error)
    answers[status.code.name] += 1
    headers = {}
    if status.retry_after is not None:
        headers = {
            "Retry-After": str(max(1, math.ceil(status.retry_after))),  # the header only knows whole seconds
            RETRY_AFTER: str(round(status.retry_after * 1000)),
        }
    if status.code is grpc.StatusCode.UNAUTHENTICATED:
        headers = {"WWW-Authenticate": "Bearer"}
    return json_response({"error": status.message}, status=STATUSES.get(status.code, 500), headers=headers)


def _error_table(answers: Counter[str]) -> Any:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPRequestEntityTooLarge as error:
            message = f"request: more than {request.client_max_size} bytes, which is not read to its end"
            answers["RESOURCE_EXHAUSTED"] += 1
            return json_response({"error": message}, status=error.status)
        except web.HTTPNotFound:
            return json_response({"error": f"there is nothing at {request.path[:80]}"}, status=404)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            text = f"{request.path[:80]} answers {allowed}, not {request.method[:20]}"
            return json_response({"error": text}, status=405, headers={"Allow": allowed})
        except web.HTTPException:
            raise
        except asyncio.CancelledError:  # the client went away
            answers["CANCELLED"] += 1
            raise
        except web.RequestPayloadError:
            return error_response(RequestError("request", "the body cannot be decoded"), answers)
        except SlowBodyError as error:
            refused = error_response(error, answers)
            refused.force_close()  # what comes of the body is no request
            return refused
        except Exception as error:
            return error_response(error, answers)
        answers["OK"] += 1
        return response

    return answer
