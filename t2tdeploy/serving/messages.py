"""Between the wire's messages and the package's own types, for the server and its clients alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from google.protobuf.duration_pb2 import Duration

from t2tdeploy.classifier import Classifier
from t2tdeploy.decoding import plain_options
from t2tdeploy.errors import RequestError
from t2tdeploy.sentences import Sentence, require_unicode
from t2tdeploy.serving.frontend import Translated
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.served_model import ServedModel
from t2tdeploy.serving.unreadable import UNREADABLE, field_of_invalid_text, unknown_field
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.translator import BUNDLE_DEFAULTS, Hypothesis, Token, TranslateOptions

SERVICE = pb.DESCRIPTOR.services_by_name["TranslationService"].full_name


@dataclass(frozen=True)
class FeatureInfo:
    """A feature of the examples of a server's model; see `manifest.FeatureInput`.

    Args:
        max_tokens, parts: of a text; else 0.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    max_tokens: int = 0
    parts: int = 0
    may_be_missing: bool = False


@dataclass(frozen=True)
class ModelInfo:
    """A model of a server.

    Args:
        version: identifies the content of its bundle.
        number: of the version, as its folder in the server's repository is called.
        defaults: of the options that a request leaves out.
        max_sentences: of one request.
        max_source_tokens: of one source, EOS included.
        max_beam_size, max_extra_length: the most that options may ask for; 0 if the task is not to translate.
        features, classes, multi_label: of models that classify or regress.
    """

    name: str
    version: str
    number: int
    task: str
    defaults: TranslateOptions
    max_sentences: int
    max_source_tokens: int
    max_beam_size: int
    max_extra_length: int
    features: tuple[FeatureInfo, ...] = ()
    classes: tuple[str, ...] = ()
    multi_label: bool = False


def parse_request(content: bytes) -> pb.TranslateRequest:
    """Reads a TranslateRequest.

    Raises:
        RequestError: the bytes are no such message; invalid UTF-8 is named by its field.
    """
    try:
        return pb.TranslateRequest.FromString(content)
    except UNREADABLE:
        message = pb.TranslateRequest
        single = {message.MODEL_FIELD_NUMBER: "model", message.MODEL_VERSION_FIELD_NUMBER: "model_version"}
        repeated = {message.SOURCES_FIELD_NUMBER: "sources", message.TARGET_PREFIXES_FIELD_NUMBER: "target_prefixes"}
        field = field_of_invalid_text(content, single, repeated)
    if field:
        raise RequestError(field, "not valid UTF-8")
    raise RequestError("request", "the bytes are not a TranslateRequest message")


def read_options(message: pb.DecodeOptions) -> TranslateOptions:
    """The options of a request.

    Raises:
        RequestError: it has an option that this version does not know; ignoring it could change the translation.
    """
    if not message.ByteSize():  # as in most requests; looking for unknown fields takes a while
        return BUNDLE_DEFAULTS
    if unknown := unknown_field(message):
        raise RequestError("options", f"field {unknown} is not known to this server")
    given = {field.name: value for field, value in message.ListFields()}
    if "suppress" in given:
        given["suppress"] = tuple(given["suppress"])
    return TranslateOptions(**given)


def write_options(options: TranslateOptions) -> pb.DecodeOptions:
    """The message of `options`; None is left out.

    Raises:
        RequestError: an option is of another type.
    """
    options = plain_options(options)
    # What says nothing is not written: an older side, which does not know the option, would refuse it.
    given = {name: value for name, value in asdict(options).items() if value != getattr(BUNDLE_DEFAULTS, name)}
    message = pb.DecodeOptions()
    for name, value in given.items():
        try:
            message.MergeFrom(pb.DecodeOptions(**{name: value}))
        except (TypeError, ValueError) as error:
            raise RequestError(f"options.{name}", str(error)) from None
    return message


def write_request(
    model: str,
    sources: Sequence[str],
    options: TranslateOptions,
    target_prefixes: Sequence[str] = (),
    model_version: str = "",
    *,
    priority: int = 0,
) -> pb.TranslateRequest:
    """A request to translate `sources`.

    Raises:
        RequestError: a source or prefix is not Unicode text (a lone surrogate).
    """
    for name, texts in (("sources", sources), ("target_prefixes", target_prefixes)):
        for index, text in enumerate(texts):
            require_unicode(f"{name}[{index}]", text)
    return pb.TranslateRequest(
        model=model,
        model_version=model_version,
        sources=sources,
        options=write_options(options),
        target_prefixes=target_prefixes,
        priority=int32("priority", priority),
    )


def write_response(found: Translated, *, source_pieces: bool) -> pb.TranslateResponse:
    """The response to a request.

    Args:
        source_pieces: whether it has them.
    """
    translator, answer = found.model.translator, found.answer
    translations = [
        write_translation(sentence, hypotheses, translator.source_pieces(sentence) if source_pieces else ())
        for sentence, hypotheses in zip(found.sentences, answer.results, strict=True)
    ]
    return pb.TranslateResponse(
        translations=translations,
        model=found.model.name,
        model_version=found.model.bundle.version,
        model_number=found.model.number,
        timing=write_timing(answer.queue, answer.compute),
    )


def int32(name: str, number: int) -> int:
    """
    Raises:
        RequestError: it does not fit the wire.
    """
    if not -(2**31) <= number < 2**31:
        raise RequestError(name, f"{number} is out of range")
    return number


def write_translation(
    sentence: Sentence, hypotheses: Sequence[Hypothesis], source_pieces: Sequence[str]
) -> pb.Translation:
    """The message of one sentence's translations."""
    return pb.Translation(
        hypotheses=[_write_hypothesis(one) for one in hypotheses],
        source_tokens=len(sentence.ids),
        truncated=sentence.truncated,
        source_pieces=source_pieces,
    )


def _write_hypothesis(one: Hypothesis) -> pb.Hypothesis:
    details = [pb.Token(piece=token.piece, score=token.score, attention=token.attention) for token in one.details]
    return pb.Hypothesis(text=one.text, score=one.score, tokens=one.tokens, finished=one.finished, details=details)


def read_response(message: pb.TranslateResponse) -> list[list[Hypothesis]]:
    """The hypotheses of every source, in order."""
    return [read_translation(translation) for translation in message.translations]


def read_translation(message: pb.Translation) -> list[Hypothesis]:
    """The hypotheses of one source."""
    return [
        Hypothesis(
            one.text,
            one.score,
            one.tokens,
            one.finished,
            tuple(Token(token.piece, token.score, tuple(token.attention)) for token in one.details),
        )
        for one in message.hypotheses
    ]


def write_model(model: ServedModel, options: ServerOptions) -> pb.Model:
    """What ListModels says of a model."""
    if isinstance(model.answerer, Classifier):
        return _write_classifier(model, model.answerer, options)
    translator, decode = model.translator, model.translator.defaults
    defaults = TranslateOptions(
        decode.beam_size, decode.alpha, 1, decode.extra_length, early_stopping=decode.early_stopping or None
    )
    limits = pb.Limits(
        max_sentences=options.max_sentences_per_request,
        max_source_tokens=decode.max_source_length,
        max_beam_size=translator.max_beam_size,
        max_extra_length=translator.max_extra_length,
        max_request_bytes=options.max_request_bytes,
    )
    return pb.Model(
        name=model.name,
        version=model.bundle.version,
        number=model.number,
        task=model.bundle.manifest.task,
        defaults=write_options(defaults),
        limits=limits,
    )


def _write_classifier(model: ServedModel, classifier: Classifier, options: ServerOptions) -> pb.Model:
    features = [
        pb.Feature(
            name=name,
            kind=one.kind,
            shape=one.shape,
            max_tokens=one.max_length or 0,
            parts=one.parts if one.kind == "text" else 0,
            may_be_missing=one.may_be_missing,
        )
        for name, one in classifier.features.items()
    ]
    limits = pb.Limits(
        max_sentences=options.max_sentences_per_request,
        max_source_tokens=max(one.max_tokens for one in features),
        max_request_bytes=options.max_request_bytes,
    )
    return pb.Model(
        name=model.name,
        version=model.bundle.version,
        number=model.number,
        task=classifier.task,
        limits=limits,
        features=features,
        classes=classifier.classes,
        multi_label=model.bundle.manifest.multi_label,
    )


def read_models(message: pb.ListModelsResponse) -> list[ModelInfo]:
    """The models of a server."""
    return [
        ModelInfo(
            name=model.name,
            version=model.version,
            number=model.number,
            task=model.task,
            defaults=read_options(model.defaults),
            max_sentences=model.limits.max_sentences,
            max_source_tokens=model.limits.max_source_tokens,
            max_beam_size=model.limits.max_beam_size,
            max_extra_length=model.limits.max_extra_length,
            features=tuple(
                FeatureInfo(one.name, one.kind, tuple(one.shape), one.max_tokens, one.parts, one.may_be_missing)
                for one in model.features
            ),
            classes=tuple(model.classes),
            multi_label=model.multi_label,
        )
        for model in message.models
    ]


def write_timing(queue: float, compute: float) -> pb.Timing:
    """The message of these seconds."""
    return pb.Timing(queue=_duration(queue), compute=_duration(compute))


def _duration(seconds: float) -> Duration:
    whole, nanos = divmod(int(seconds * 1e9), 10**9)
    return Duration(seconds=whole, nanos=nanos)
