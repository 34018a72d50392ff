"""Clients of a t2tdeploy server: `Client` for plain code, `AsyncClient` for asyncio. Both answer as `Translator` does.

A long list of sources becomes several requests, some of them under way at once; the answers keep the order of the list.
A request of several sources that is too large for the server is asked in halves.
A request that meets a full or restarting server is tried again after the server's own hint, or after a growing pause.
A target of several servers, "dns:///name:port", is asked in turn (round robin).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager

import grpc

from t2tdeploy.decoding import require_list
from t2tdeploy.documents import TranslatedPart
from t2tdeploy.errors import RequestError
from t2tdeploy.progress import Reporter, SilentReporter, Task
from t2tdeploy.serving.attempts import DEFAULT_OPTIONS, Attempts, ClientOptions
from t2tdeploy.serving.connection import AsyncConnection, Connection
from t2tdeploy.serving.document_client import DocumentOptions, document_parts, document_parts_async
from t2tdeploy.serving.in_flight import ask_all, ask_all_async
from t2tdeploy.serving.messages import ModelInfo, read_models, read_response, write_request
from t2tdeploy.serving.row_requests import Request
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from t2tdeploy.translator import BUNDLE_DEFAULTS, Hypothesis, TranslateOptions

__all__ = ["AsyncClient", "Client", "ClientOptions"]

_Translations = list[list[Hypothesis]]


class Client(Connection):
    """A client for plain code; may be shared by threads. Close it, or use it in a `with`.

    Args:
        target: "host:port" of the server, or any other name that gRPC resolves: "dns:///name:port".
    """

    def __init__(self, target: str, options: ClientOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(target, options)
        self._stub = TranslationServiceStub(self._channel)

    def translate(
        self,
        sources: Sequence[str],
        options: TranslateOptions = BUNDLE_DEFAULTS,
        *,
        target_prefixes: Sequence[str] | None = None,
        reporter: Reporter | None = None,
    ) -> _Translations:
        """The hypotheses of every source, best first, in the order of the sources.

        Args:
            target_prefixes: what the translation of each source starts with; "" for nothing.
            reporter: is told how many sentences are done.

        Raises:
            RequestError: a source or option is not valid; the field is named, e.g. sources[3].
            ServerError: the server did not answer, or with another status than OK.
        """
        sources = require_list("sources", sources)
        requests = _requests(sources, options, target_prefixes, self._options)
        with _progress(reporter, sources) as task:
            return ask_all(
                requests,
                lambda message, seconds: self._stub.Translate.future(message, timeout=seconds),
                read_response,
                target=self._target,
                options=self._options,
                task=task,
            )

    def translate_document(
        self,
        document: str,
        options: TranslateOptions = BUNDLE_DEFAULTS,
        *,
        language: str = "",
        timeout: float | None = None,
    ) -> Generator[TranslatedPart, None, None]:
        """The sentences of a document with their hypotheses, in order, as the server sends them.

        `documents.rejoin(document, client.translate_document(document))` gives the translated document piece by piece.
        Closing the iterator, or dropping it, cancels the rest.

        Args:
            options: `truncate` means nothing here: sentences that are too long are cut.
            language: of the document, as in "de"; empty: general rules.
            timeout: seconds for the whole document; None: as long as it takes.

        Raises:
            RequestError: the document or an option is not valid.
            ServerError: as for `translate`, and when the answer breaks off. Nothing is asked for again once a part of
                it has come.
        """
        asked = DocumentOptions(options, language, timeout)
        return document_parts(self._stub, document, asked, self._target, self._options)

    def models(self) -> list[ModelInfo]:
        """The models of the server.

        Raises:
            ServerError: as for `translate`.
        """
        attempts = Attempts(self._target, self._options)
        while True:
            try:
                return read_models(self._stub.ListModels(pb.ListModelsRequest(), timeout=attempts.timeout))
            except grpc.RpcError as error:
                time.sleep(attempts.pause_after(error))


class AsyncClient(AsyncConnection):
    """A client for asyncio. Make and use it on one event loop; close it, or use it in an `async with`.

    Args:
        target: "host:port" of the server, or any other name that gRPC resolves: "dns:///name:port".
    """

    def __init__(self, target: str, options: ClientOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(target, options)
        self._stub = TranslationServiceStub(self._channel)

    async def translate(
        self,
        sources: Sequence[str],
        options: TranslateOptions = BUNDLE_DEFAULTS,
        *,
        target_prefixes: Sequence[str] | None = None,
        reporter: Reporter | None = None,
    ) -> _Translations:
        """As `Client.translate`; cancelling it cancels the requests."""
        sources = require_list("sources", sources)
        requests = _requests(sources, options, target_prefixes, self._options)
        with _progress(reporter, sources) as task:
            return await ask_all_async(
                requests,
                lambda message, seconds: self._stub.Translate(message, timeout=seconds),
                read_response,
                target=self._target,
                options=self._options,
                task=task,
            )

    def translate_document(
        self,
        document: str,
        options: TranslateOptions = BUNDLE_DEFAULTS,
        *,
        language: str = "",
        timeout: float | None = None,
    ) -> AsyncGenerator[TranslatedPart, None]:
        """As `Client.translate_document`."""
        asked = DocumentOptions(options, language, timeout)
        return document_parts_async(self._stub, document, asked, self._target, self._options)

    async def models(self) -> list[ModelInfo]:
        """As `Client.models`."""
        attempts = Attempts(self._target, self._options)
        while True:
            try:
                return read_models(await self._stub.ListModels(pb.ListModelsRequest(), timeout=attempts.timeout))
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(attempts.pause_after(error))


def _progress(reporter: Reporter | None, sources: Sequence[str]) -> AbstractContextManager[Task]:
    return (reporter or SilentReporter()).task("translating", total=len(sources), unit="sentences")


def _requests(
    sources: Sequence[str],
    options: TranslateOptions,
    target_prefixes: Sequence[str] | None,
    client: ClientOptions,
) -> list[Request[pb.TranslateRequest]]:
    """The requests for `sources`; all are checked before the first is sent."""
    prefixes = [] if target_prefixes is None else require_list("target_prefixes", target_prefixes)
    if prefixes and len(prefixes) != len(sources):
        raise RequestError("target_prefixes", f"{len(prefixes)} for {len(sources)} sources")
    whole = write_request(client.model, sources, options, prefixes, client.model_version, priority=client.priority or 0)
    return list(Request(0, whole, "sources", ("sources", "target_prefixes")).cut(client.sentences_per_request))
