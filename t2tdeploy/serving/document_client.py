"""What `Client.translate_document` and `AsyncClient.translate_document` do."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc

from t2tdeploy.decoding import BUNDLE_DEFAULTS, TranslateOptions
from t2tdeploy.documents import TranslatedPart
from t2tdeploy.errors import ServerError
from t2tdeploy.serving.attempts import Attempts, ClientOptions
from t2tdeploy.serving.document_messages import DocumentReader, write_document_request
from t2tdeploy.serving.v1 import translation_pb2 as pb

if TYPE_CHECKING:
    from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceAsyncStub, TranslationServiceStub


@dataclass(frozen=True)
class DocumentOptions:
    """How a client asks for a document.

    Args:
        decoding: `truncate` means nothing here.
        language: of the document, as in "de"; empty: general rules.
        timeout: seconds for the whole document; None: as long as it takes.
    """

    decoding: TranslateOptions = BUNDLE_DEFAULTS
    language: str = ""
    timeout: float | None = None


class _Stream:
    """One document's request and the parts of the answers; whether it may be asked for again."""

    def __init__(self, document: str, asked: DocumentOptions, target: str, client: ClientOptions) -> None:
        self.request = write_document_request(
            client.model, document, asked.decoding, asked.language, client.priority, client.model_version
        )
        timeout = math.inf if asked.timeout is None else asked.timeout
        self._attempts = Attempts(target, replace(client, timeout=timeout))
        self._reader = DocumentReader(document)
        self._begun = self.ended = False

    @property
    def timeout(self) -> float | None:
        return self._attempts.timeout

    def part(self, message: pb.TranslateDocumentResponse) -> TranslatedPart | None:
        """The part of a response; None for the last."""
        self._begun = True
        if message.HasField("sentence"):
            return self._reader.part(message.sentence)
        self.ended = self.ended or message.HasField("end")
        return None

    def pause_after(self, error: grpc.RpcError) -> float:
        """Seconds to wait before it is asked for again: only as long as nothing of it has come.

        Raises:
            RequestError, ServerError: it is not.
        """
        return self._attempts.pause_after(error, again=not self._begun)

    def require_end(self) -> None:
        """
        Raises:
            ServerError: the stream ended without its last message.
        """
        if not self.ended:
            raise ServerError("INTERNAL", "the answer broke off", help="is a proxy between that ends long calls?")


def document_parts(
    stub: TranslationServiceStub, document: str, asked: DocumentOptions, target: str, client: ClientOptions
) -> Generator[TranslatedPart, None, None]:
    """The parts of `document` as they come; closing it cancels the rest. See `Client.translate_document`."""
    stream = _Stream(document, asked, target, client)
    while True:
        call = stub.TranslateStream(stream.request, timeout=stream.timeout)
        try:
            for message in call:
                if part := stream.part(message):
                    yield part
            break
        except grpc.RpcError as error:
            time.sleep(stream.pause_after(error))
        finally:
            call.cancel()
    stream.require_end()


async def document_parts_async(
    stub: TranslationServiceAsyncStub, document: str, asked: DocumentOptions, target: str, client: ClientOptions
) -> AsyncGenerator[TranslatedPart, None]:
    """As `document_parts`, for asyncio."""
    stream = _Stream(document, asked, target, client)
    while True:
        call = stub.TranslateStream(stream.request, timeout=stream.timeout)
        try:
            async for message in call:
                if part := stream.part(message):
                    yield part
            break
        except grpc.aio.AioRpcError as error:
            await asyncio.sleep(stream.pause_after(error))
        finally:
            call.cancel()
    stream.require_end()
