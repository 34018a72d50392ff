"""The protocol's messages over HTTP: JSON, and behind it, if the client likes, the tensors' raw bytes.

With the header `Inference-Header-Content-Length: N`, only the first N bytes of a body are JSON. An input with the
parameter `binary_data_size` has its data in the bytes behind, in the order of the inputs; an output with the parameter
`binary_data`, or all of them with the request's `binary_data_output`, come that way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from t2tdeploy.errors import RequestError
from t2tdeploy.sentences import require_unicode
from t2tdeploy.serving.inference.calls import (
    InferAnswer,
    InferRequest,
    Parameter,
    inputs_by_name,
    require_no_shared_memory,
)
from t2tdeploy.serving.inference.tensors import InferInput, Tensor, shown

HEADER_LENGTH = "Inference-Header-Content-Length"

_REQUEST = {"id": str, "parameters": dict, "inputs": list, "outputs": list, "model_name": str, "model_version": str}
_INPUT = {"name": str, "datatype": str, "shape": list, "parameters": dict, "data": list}
_OUTPUT = {"name": str, "parameters": dict}


@dataclass(frozen=True)
class HttpInfer:
    """A request, which outputs its client wants as raw bytes, and whom the body takes it to be for.

    Args:
        request: to the model of the path.
        binary: by name of an output.
        otherwise: the same for all others.
        model, version: of the body, see `require_same_model`; empty: it names none.
    """

    request: InferRequest
    binary: Mapping[str, bool]
    otherwise: bool
    model: str = ""
    version: str = ""

    def require_same_model(self, path: str, model: str, versions: tuple[str, str]) -> None:
        """KServe's clients repeat in the body what the path says.

        Args:
            path: name in the path: the model's, or an alias.
            model: that the path means.
            versions: number and content id of the version that answers.

        Raises:
            RequestError: the body means another.
        """
        if self.model not in ("", path, model):
            message = f"'{shown(self.model)}', but the path is that of {model}"
            raise RequestError("model_name", message, help=f"leave it out, or write {model}")
        if self.version not in ("", *versions):
            message = f"'{shown(self.version)}', but the path is that of version {versions[0]}"
            raise RequestError("model_version", message, help=f"leave it out, or write {versions[0]}")


def parse_object(text: bytes) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        RequestError: it is none.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON number")

    try:
        found = json.loads(text.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError:
        raise RequestError("request", "not valid UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RequestError("request", f"not JSON: {shown(str(error))}") from None
    if not isinstance(found, dict):
        raise RequestError("request", "not a JSON object")
    return found


def parse_infer(
    body: bytes,
    header_length: str | None,
    model: str,
    version: str,
    require_counts: Callable[[int, int, int], None],
) -> HttpInfer:
    """Reads the body of an inference request.

    Args:
        header_length: the header HEADER_LENGTH; None: all of the body is JSON.
        require_counts: refuses too many inputs, outputs or parameters, see `TensorInterface`.

    Raises:
        RequestError: naming what is wrong.
    """
    text, rest = _split(body, header_length)
    fields = _given("request", parse_object(text), _REQUEST)
    require_counts(*(len(fields.get(name, ())) for name in ("inputs", "outputs", "parameters")))
    require_unicode("id", fields.get("id", ""))  # it is repeated in the answer
    parameters = _parameters("parameters", fields)
    otherwise = _flag(parameters, "binary_data_output")
    inputs, outputs, binary = [], [], {}
    for index, one in enumerate(fields.get("inputs", [])):
        tensor, rest = _input(f"inputs[{index}]", one, rest)
        inputs.append(tensor)
    if rest:
        raise RequestError("request", f"{len(rest)} bytes are left behind the data of the inputs")
    for index, one in enumerate(fields.get("outputs", [])):
        field = f"outputs[{index}]"
        output = _given(field, one, _OUTPUT, needed=("name",))
        asked = _parameters(f"{field}.parameters", output)
        outputs.append(output["name"])
        binary[output["name"]] = _flag(asked, "binary_data", otherwise)
        require_no_shared_memory(field, asked)
    request = InferRequest(model, version, fields.get("id", ""), parameters, inputs_by_name(inputs), tuple(outputs))
    return HttpInfer(request, binary, otherwise, fields.get("model_name", ""), fields.get("model_version", ""))


def write_infer(answer: InferAnswer, asked: HttpInfer) -> tuple[bytes, int | None]:
    """The body of an answer, and how much of it is JSON; None: all."""
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for tensor in answer.tensors:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.values.shape)}
        if asked.binary.get(tensor.name, asked.otherwise):
            raw.append(tensor.raw())
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = _elements(tensor)
        outputs.append(output)
    fields: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if answer.id:
        fields["id"] = answer.id
    if answer.parameters:
        fields["parameters"] = answer.parameters
    text = json.dumps({**fields, "outputs": outputs}, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b"".join(raw), len(text) if raw else None


def plain(message: Message) -> dict[str, Any]:
    """A message as the protocol writes it in JSON: its own field names, all of them, numbers as numbers, enums by name.

    protobuf's mapping would write 64-bit integers as strings.
    """
    return {
        field.name: _plain_field(message, field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _plain_field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return {key: plain(one) if isinstance(one, Message) else one for key, one in value.items()}
    if not field.is_repeated:
        return _plain_value(field, value)
    return [_plain_value(field, one) for one in value]


def _plain_value(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    return field.enum_type.values_by_number[value].name if field.enum_type else value


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdecimal()) or len(header_length) > 12:
        raise RequestError(HEADER_LENGTH, f"'{shown(header_length)}' is not a number of bytes")
    length = int(header_length)
    if length > len(body):
        raise RequestError(HEADER_LENGTH, f"{length}, but the body has {len(body)} bytes")
    return body[:length], memoryview(body)[length:]


def _input(field: str, fields: Any, rest: memoryview) -> tuple[InferInput, memoryview]:
    fields = _given(field, fields, _INPUT, needed=("name", "datatype", "shape"))
    name, parameters = fields["name"], _parameters(f"{field}.parameters", fields)
    size = parameters.pop("binary_data_size", None)
    require_no_shared_memory(name, parameters)
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in fields["shape"]):
        raise RequestError(shown(name), "shape: not a list of whole numbers")
    content: Any = fields.get("data")
    if size is not None:
        if content is not None:
            raise RequestError(shown(name), "has data and binary_data_size", help="send one of them")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
            raise RequestError(shown(name), f"binary_data_size = {shown(str(size))}, but {len(rest)} bytes are left")
        content, rest = bytes(rest[:size]), rest[size:]
    return InferInput(name, fields["datatype"], tuple(fields["shape"]), content), rest


def _given(owner: str, fields: Any, kinds: Mapping[str, type], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of an object but those that are null, as some clients write what is not there."""
    if not isinstance(fields, dict):
        raise RequestError(owner, "not a JSON object")
    for name, value in fields.items():
        if name not in kinds:
            raise RequestError(owner, f"unknown field '{shown(name)}'; valid choices: {', '.join(kinds)}")
        if not isinstance(value, kinds[name] | None):
            words: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
            raise RequestError(f"{owner}.{name}", f"not {words[kinds[name]]}")
    given = {name: value for name, value in fields.items() if value is not None}
    for name in needed:
        if name not in given:
            raise RequestError(owner, f"has no {name}")
    return given


def _parameters(owner: str, fields: dict[str, Any]) -> dict[str, Parameter]:
    found = dict(fields.get("parameters", {}))
    for name, value in found.items():
        if not isinstance(value, bool | int | float | str):
            raise RequestError(f"{owner}.{shown(name)}", "neither a text, a number, nor true or false")
    return found


def _flag(parameters: dict[str, Parameter], name: str, default: bool = False) -> bool:
    value = parameters.pop(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"parameters.{name}", f"{shown(repr(value))} is neither true nor false")
    return value


def _elements(tensor: Tensor) -> list[Any]:
    """Flat, as Triton writes it. JSON has no numbers that are not finite, so those become the smallest and largest."""
    values: list[Any] = tensor.values.ravel().tolist()
    if tensor.datatype == "BYTES":
        return [one.decode("utf-8", errors="replace") for one in values]
    if tensor.values.dtype.kind == "f":
        return [one if math.isfinite(one) else None for one in values]
    return values
