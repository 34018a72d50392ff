"""Between the messages of ClassificationService and the package's own types, for the server and its clients alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.classifier import Classification, Label, RawExample
from t2tdeploy.errors import RequestError
from t2tdeploy.sentences import require_unicode
from t2tdeploy.serving.frontend import Classified, ClassifyCall
from t2tdeploy.serving.messages import int32, write_timing
from t2tdeploy.serving.unreadable import UNREADABLE, field_of_invalid_text, unknown_field
from t2tdeploy.serving.v1 import classification_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["ClassificationService"].full_name

ONLY_FEATURE = ""
"""Name of a feature in an example of a model that has one."""

LARGEST_EXACT = 2**53  # of whole numbers, what a double holds

Array = npt.NDArray[Any]


def parse_classify_request(content: bytes) -> pb.ClassifyRequest:
    """Reads a ClassifyRequest.

    Raises:
        RequestError: the bytes are no such message; invalid UTF-8 is named by its field, unless it is in an example.
    """
    try:
        return pb.ClassifyRequest.FromString(content)
    except UNREADABLE:
        message = pb.ClassifyRequest
        single = {message.MODEL_FIELD_NUMBER: "model", message.MODEL_VERSION_FIELD_NUMBER: "model_version"}
        field = field_of_invalid_text(content, single, {message.TEXTS_FIELD_NUMBER: "texts"})
    if field:
        raise RequestError(field, "not valid UTF-8")
    raise RequestError("request", "the bytes are not a ClassifyRequest message")


def read_classify_request(request: pb.ClassifyRequest, deadline: float | None) -> ClassifyCall:
    """The call that a message asks for.

    Args:
        deadline: on the clock of the event loop; None: there is none.

    Raises:
        RequestError: the examples come in two forms, or a value is none; an option is not known to this version.
    """
    options = request.options
    if unknown := unknown_field(options):
        raise RequestError("options", f"field {unknown} is not known to this server")
    given = [name for name in ("texts", "images", "examples") if getattr(request, name)]
    if len(given) > 1:
        raise RequestError("examples", f"{' and '.join(given)} are given", help="send one of them")
    examples: list[RawExample] = [*request.texts, *request.images]
    examples += [_read_example(one, f"examples[{index}]") for index, one in enumerate(request.examples)]
    return ClassifyCall(
        examples,
        top_k=options.top_k if options.HasField("top_k") else 1,
        truncate=options.truncate,
        model=request.model,
        version=request.model_version,
        deadline=deadline,
        priority=request.priority,
        size=request.ByteSize(),
    )


def write_classify_request(
    examples: Sequence[RawExample],
    *,
    first: int = 0,
    top_k: int,
    truncate: bool,
    model: str = "",
    model_version: str = "",
    priority: int = 0,
) -> pb.ClassifyRequest:
    """A request about `examples`.

    Args:
        first: index of the first of them in what was asked, for errors.

    Raises:
        RequestError: a value is of no kind that can be sent, or no Unicode text.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int):
        raise RequestError("options.top_k", f"{top_k!r} is not a whole number")
    request = pb.ClassifyRequest(
        model=model,
        model_version=model_version,
        options=pb.ClassifyOptions(top_k=int32("options.top_k", top_k), truncate=truncate),
        priority=int32("priority", priority),
    )
    places = [f"examples[{first + index}]" for index in range(len(examples))]
    texts = [one for one in examples if isinstance(one, str)]
    images = [one for one in examples if isinstance(one, bytes)]
    if len(texts) == len(examples):
        for place, text in zip(places, texts, strict=True):
            require_unicode(place, text)
        request.texts.extend(texts)
    elif len(images) == len(examples):
        request.images.extend(images)
    else:
        request.examples.extend(map(_write_example, examples, places))
    return request


def write_classify_response(found: Classified) -> pb.ClassifyResponse:
    """The response to a request."""
    response = pb.ClassifyResponse(
        model=found.model.name,
        model_version=found.model.bundle.version,
        model_number=found.model.number,
        timing=write_timing(found.answer.queue, found.answer.compute),
    )
    for answer in found.answer.results:  # added in place: built beforehand, each would be copied
        message = response.classifications.add(values=answer.values, truncated=answer.truncated)
        for one in answer.labels:
            message.labels.add(name=one.name, class_id=one.class_id, probability=one.probability, logit=one.logit)
    return response


def read_classify_response(message: pb.ClassifyResponse) -> list[Classification]:
    """The answer to every example, in order."""
    return [
        Classification(
            tuple(Label(one.name, one.class_id, one.probability, one.logit) for one in answer.labels),
            tuple(answer.values),
            answer.truncated,
        )
        for answer in message.classifications
    ]


def _read_example(message: pb.Example, place: str) -> RawExample:
    features = message.features
    values = {name: _read_value(features[name], place, name) for name in features}
    return values[ONLY_FEATURE] if [*values] == [ONLY_FEATURE] else values


def _read_value(message: pb.Value, place: str, name: str) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise RequestError(f"{place}.{name[:80]}", "no value, or one of a kind that this server does not know")
    if kind == "texts":
        return list(message.texts.texts)
    if kind == "tensor":
        return _read_tensor(message.tensor, f"{place}.{name[:80]}")
    return getattr(message, kind)


def _read_tensor(message: pb.Tensor, field: str) -> Array:
    shape = tuple(message.shape)
    given = [name for name in ("numbers", "pixels", "ids") if getattr(message, name)]
    if len(given) > 1:
        raise RequestError(field, f"{' and '.join(given)} are given", help="send one of them")
    found: Array
    if message.pixels:
        found = np.frombuffer(message.pixels, dtype=np.uint8)
    elif message.ids:
        found = np.array(message.ids, dtype=np.int64)
    else:
        found = np.array(message.numbers, dtype=np.float32)
    if any(size < 0 for size in shape) or math.prod(shape) != found.size:
        raise RequestError(field, f"{found.size} elements, but the shape is {list(shape)}")
    try:
        return found.reshape(shape)
    except ValueError as error:  # more axes, or larger ones, than numpy has
        raise RequestError(field, str(error)) from None


def _write_example(example: RawExample, place: str) -> pb.Example:
    values = example if isinstance(example, Mapping) else {ONLY_FEATURE: example}
    message = pb.Example()
    for name, value in values.items():
        if not isinstance(name, str):
            raise RequestError(f"{place}.{name!s:.80}", "the name of a feature is a text")
        require_unicode(place, name)
        if value is not None:
            message.features[name].CopyFrom(_write_value(value, f"{place}.{name}" if name else place))
    return message


def _write_value(value: Any, field: str) -> pb.Value:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, str):
        require_unicode(field, value)
        return pb.Value(text=value)
    if isinstance(value, bytes):
        return pb.Value(image=value)
    if isinstance(value, bool):
        return pb.Value(truth=value)
    if isinstance(value, int) and abs(value) > LARGEST_EXACT:
        return pb.Value(text=str(value))
    if isinstance(value, int | float):
        return pb.Value(number=value)
    if isinstance(value, list | tuple):
        if value and all(isinstance(one, str) for one in value):
            for text in value:
                require_unicode(field, text)
            return pb.Value(texts=pb.Texts(texts=value))
        try:
            value = np.array(value)
        except ValueError:
            raise RequestError(field, "rows of different lengths") from None
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return pb.Value(tensor=_write_tensor(value))
    raise RequestError(field, f"a {type(value).__name__}, which is neither text, number, bytes nor array")


def _write_tensor(value: Array) -> pb.Tensor:
    if value.dtype == np.uint8:
        return pb.Tensor(shape=value.shape, pixels=value.tobytes())
    if value.dtype.kind in "iu":
        return pb.Tensor(shape=value.shape, ids=value.ravel().tolist())
    with np.errstate(over="ignore"):
        return pb.Tensor(shape=value.shape, numbers=value.astype(np.float32).ravel().tolist())
