"""The methods of TranslationService: admission, queue, answer, and every error as a status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

import grpc
from google.protobuf.message import DecodeError

from t2tdeploy.bundle import Bundle
from t2tdeploy.decoding import SearchKey
from t2tdeploy.errors import RequestError, UnknownNameError
from t2tdeploy.sentences import Sentence
from t2tdeploy.serving.messages import (
    RETRY_AFTER,
    SERVICE,
    parse_request,
    read_options,
    write_model,
    write_response,
)
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.scheduler import OverloadedError, Scheduler, UnavailableError
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.translator import Translator

MAX_DETAILS = 4_000_000
"""Log-probabilities and attention weights of one answer."""

logger = logging.getLogger("t2tdeploy.serving")

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[bytes, Context], Awaitable[bytes]]


class TranslationService:
    """Answers for one bundle; refuses with UNAVAILABLE before `open` and after `close`.

    Requests come as bytes, so that even a message protobuf cannot read is answered with a status of the table.
    `answers` counts the calls of both methods by status.
    """

    def __init__(self, bundle: Bundle, options: ServerOptions) -> None:
        self.answers: Counter[str] = Counter()
        self._bundle = bundle
        self._options = options
        self._state: Literal["starting", "serving", "stopping"] = "starting"
        self._translator: Translator | None = None
        self._scheduler: Scheduler | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, translator: Translator, scheduler: Scheduler) -> None:
        """Requests are accepted from now on."""
        self._translator, self._scheduler, self._state = translator, scheduler, "serving"

    async def close(self, grace: float) -> int:
        """Accepts nothing more, and waits up to `grace` seconds for what was accepted.

        Returns:
            Requests that are still not answered.
        """
        self._state = "stopping"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        return self._in_flight

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, for `grpc.aio.Server.add_generic_rpc_handlers`."""
        methods: dict[str, Method] = {"Translate": self.translate, "ListModels": self.list_models}
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {name: grpc.unary_unary_rpc_method_handler(self._answering(method)) for name, method in methods.items()},
        )

    async def translate(self, content: bytes, context: Context) -> bytes:
        """TranslateRequest -> TranslateResponse."""
        translator, scheduler = self._serving()
        loop = asyncio.get_running_loop()
        remaining = context.time_remaining()
        deadline = None if remaining is None else loop.time() + remaining
        self._in_flight += 1
        self._idle.clear()
        try:
            request = self._admit(content)
            options = read_options(request.options)
            key = translator.search_key(options)
            scheduler.require_room(len(request.sources))  # an overloaded server does not tokenize what it then refuses
            sentences = await asyncio.to_thread(
                translator.encode,
                list(request.sources),
                truncate=options.truncate,
                target_prefixes=list(request.target_prefixes) or None,
            )
            tokens = sum(len(sentence.ids) + len(sentence.prefix) for sentence in sentences)
            if tokens > self._options.max_queue_tokens:
                limit = self._options.max_queue_tokens
                raise RequestError("sources", f"{tokens} tokens in one request, the server takes {limit}")
            _require_small_answer(sentences, key)
            answer = await scheduler.translate(sentences, key, deadline=deadline)
            write = partial(write_response, source_pieces=options.return_attention)
            if not key.tokens:
                return write(translator, sentences, answer).SerializeToString()
            response = await asyncio.to_thread(write, translator, sentences, answer)  # long: the event loop goes on
            return await asyncio.to_thread(response.SerializeToString)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def list_models(self, content: bytes, context: Context) -> bytes:
        """ListModelsRequest -> ListModelsResponse."""
        translator, _ = self._serving()
        try:
            pb.ListModelsRequest.FromString(content)
        except DecodeError:
            raise RequestError("request", "the bytes are not a ListModelsRequest message") from None
        return pb.ListModelsResponse(models=[write_model(translator, self._options)]).SerializeToString()

    def _serving(self) -> tuple[Translator, Scheduler]:
        if self._state != "serving" or self._translator is None or self._scheduler is None:
            raise UnavailableError(f"the server is {self._state}")
        return self._translator, self._scheduler

    def _admit(self, content: bytes) -> pb.TranslateRequest:
        options = self._options
        if len(content) > options.max_request_bytes:
            raise RequestError("request", f"{len(content)} bytes, the server takes {options.max_request_bytes}")
        request = parse_request(content)
        name = self._bundle.manifest.name
        if request.model not in ("", name):
            raise UnknownNameError("model", request.model, [name])
        if not request.sources:
            raise RequestError("sources", "there is none")
        if len(request.sources) > options.max_sentences_per_request:
            limit = options.max_sentences_per_request
            raise RequestError("sources", f"{len(request.sources)} in one request, the server takes {limit}")
        return request

    def _answering(self, method: Method) -> Method:
        """`method`, with what it raises answered by the error table."""

        async def answer(content: bytes, context: Context) -> bytes:
            try:
                response = await method(content, context)
            except asyncio.CancelledError:  # by the client, or its deadline
                self.answers["CANCELLED"] += 1
                raise
            except Exception as error:
                code, details, trailing = _status(error)
                self.answers[code.name] += 1
                await context.abort(code, details, trailing)
                raise AssertionError("abort raises") from error
            self.answers["OK"] += 1
            return response

        return answer


def _require_small_answer(sentences: Sequence[Sentence], key: SearchKey) -> None:
    """
    Raises:
        RequestError: the tokens or attention asked for could be more than a server should hold.
    """
    if not key.tokens:
        return
    numbers = sum(
        key.num_hypotheses
        * key.lengths.of(len(one.ids), len(one.prefix))[1]
        * (1 + (len(one.ids) if key.attention else 0))
        for one in sentences
    )
    if numbers > MAX_DETAILS:
        name = "return_attention" if key.attention else "return_tokens"
        raise RequestError(
            f"options.{name}",
            f"up to {numbers} numbers in one answer, the server gives {MAX_DETAILS}",
            help="send fewer sources at once, or lower num_hypotheses or max_length",
        )


def _status(error: Exception) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """The error table: status, words and trailing metadata of the answer."""
    match error:
        case RequestError():
            return grpc.StatusCode.INVALID_ARGUMENT, _sentence(error.message, error.help), ()
        case UnknownNameError():
            return grpc.StatusCode.NOT_FOUND, _sentence(error.message, error.help), ()
        case OverloadedError():
            hint = (RETRY_AFTER, str(round(error.retry_after * 1000)))
            return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), (hint,)
        case TimeoutError():
            return grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed", ()
        case UnavailableError():
            return grpc.StatusCode.UNAVAILABLE, str(error), ()
    error_id = uuid.uuid4().hex[:12]
    logger.error("internal error %s", error_id, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error {error_id}, see the server's log", ()


def _sentence(message: str, help: str | None) -> str:
    return f"{message} ({help})" if help else message
