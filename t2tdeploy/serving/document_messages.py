"""Messages of documents to the package's types and back, for the server and its clients alike."""

from __future__ import annotations

from t2tdeploy.decoding import TranslateOptions
from t2tdeploy.documents import Part, TranslatedPart
from t2tdeploy.errors import RequestError
from t2tdeploy.sentences import require_unicode
from t2tdeploy.serving.document_stream import AnsweredPart
from t2tdeploy.serving.messages import (
    int32,
    read_translation,
    write_options,
    write_translation,
)
from t2tdeploy.serving.served_model import ServedModel
from t2tdeploy.serving.unreadable import UNREADABLE, field_of_invalid_text
from t2tdeploy.serving.v1 import translation_pb2 as pb


def parse_document_request(content: bytes) -> pb.TranslateDocumentRequest:
    """Reads a TranslateDocumentRequest.

    Raises:
        RequestError: the bytes are no such message; invalid UTF-8 is named by its field.
    """
    try:
        return pb.TranslateDocumentRequest.FromString(content)
    except UNREADABLE:
        message = pb.TranslateDocumentRequest
        names = {
            message.MODEL_FIELD_NUMBER: "model",
            message.MODEL_VERSION_FIELD_NUMBER: "model_version",
            message.DOCUMENT_FIELD_NUMBER: "document",
            message.LANGUAGE_FIELD_NUMBER: "language",
        }
        field = field_of_invalid_text(content, names)
    if field:
        raise RequestError(field, "not valid UTF-8")
    raise RequestError("request", "the bytes are not a TranslateDocumentRequest message")


def write_document_request(
    model: str, document: str, options: TranslateOptions, language: str, priority: int | None, model_version: str
) -> pb.TranslateDocumentRequest:
    """A request to translate a document.

    Raises:
        RequestError: the document is not Unicode text.
    """
    require_unicode("document", document)
    return pb.TranslateDocumentRequest(
        model=model,
        model_version=model_version,
        document=document,
        options=write_options(options),
        language=language,
        priority=None if priority is None else int32("priority", priority),
    )


class DocumentWriter:
    """The responses to one request, with their sums."""

    def __init__(self, model: ServedModel, document: str, *, source_pieces: bool) -> None:
        self._model, self._document, self._source_pieces = model, document, source_pieces
        self._sentences = self._source_tokens = self._target_tokens = 0
        self._end = self._end_byte = 0

    def sentence(self, one: AnsweredPart) -> pb.TranslateDocumentResponse:
        """The response with the next sentence."""
        pieces = self._model.translator.source_pieces(one.sentence) if self._source_pieces else ()
        start = self._end_byte + len(one.part.before.encode())
        message = pb.DocumentSentence(
            index=self._sentences,
            before=one.part.before,
            start_byte=start,
            end_byte=start + len(one.part.text.encode()),
            translation=write_translation(one.sentence, one.hypotheses, pieces),
        )
        self._sentences += 1
        self._source_tokens += len(one.sentence.ids)
        self._target_tokens += one.hypotheses[0].tokens
        self._end, self._end_byte = one.part.end, message.end_byte
        return pb.TranslateDocumentResponse(sentence=message)

    def end(self) -> pb.TranslateDocumentResponse:
        """The last response."""
        return pb.TranslateDocumentResponse(
            end=pb.DocumentEnd(
                sentences=self._sentences,
                after=self._document[self._end :],
                source_tokens=self._source_tokens,
                target_tokens=self._target_tokens,
                model=self._model.name,
                model_version=self._model.bundle.version,
                model_number=self._model.number,
            )
        )


class DocumentReader:
    """The parts of a document, of the responses to it."""

    def __init__(self, document: str) -> None:
        self._bytes = document.encode()
        self._end = 0

    def part(self, message: pb.DocumentSentence) -> TranslatedPart:
        """The next part."""
        text = self._bytes[message.start_byte : message.end_byte].decode()
        start = self._end + len(message.before)
        self._end = start + len(text)
        return TranslatedPart(Part(message.before, text, start, self._end), read_translation(message.translation))
