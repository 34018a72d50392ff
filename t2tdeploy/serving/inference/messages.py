"""The protocol's messages over gRPC, from and to `InferRequest` and `InferAnswer`."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message

from t2tdeploy.errors import RequestError
from t2tdeploy.serving.inference.calls import (
    InferAnswer,
    InferRequest,
    Parameter,
    inputs_by_name,
    require_no_shared_memory,
)
from t2tdeploy.serving.inference.tensors import InferInput, require_axes, shown
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb
from t2tdeploy.serving.unreadable import (
    MOST_TOP_FIELDS,
    UNREADABLE,
    has_too_many_fields,
    has_unknown_field,
    unknown_field,
)

M = TypeVar("M", bound=Message)

_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of a datatype are, if they do not come raw."""


def parse(message: type[M], content: bytes) -> M:
    """Reads a message.

    Raises:
        RequestError: the bytes are no such message, or it has too many fields, or one this server does not know; to
            ignore that could change the answer.
    """
    found = _parsed(message, content)
    if has_unknown_field(found, content):
        _require_known("request", found)
    return found


def parse_infer_request(content: bytes) -> tuple[pb.ModelInferRequest, bool]:
    """As `parse`.

    Returns:
        The message, and whether one within it has a field that this server does not know; `read_infer` names it.
    """
    found = _parsed(pb.ModelInferRequest, content)
    if unknown := has_unknown_field(found, content):
        _require_known("request", found)
    return found, unknown


def read_infer(message: pb.ModelInferRequest, *, look_for_unknown: bool = True) -> InferRequest:
    """What a request says; its tensors are not looked into. How many there are is to be checked before
    (`TensorInterface.require_counts`): every one takes time.

    Args:
        look_for_unknown: for fields that this server does not know, in the messages within; takes copies of large ones.

    Raises:
        RequestError: naming the input or parameter that cannot be understood.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RequestError(
            "raw_input_contents",
            f"{len(raw)} for {len(message.inputs)} inputs",
            help="either every input has its data there, or none has",
        )
    if look_for_unknown:
        _require_known_parts(message)
    inputs = [_read_input(one, raw[index] if raw else None) for index, one in enumerate(message.inputs)]
    for output in message.outputs:
        require_no_shared_memory(output.name, output.parameters)
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        parameters={name: _read_parameter(name, value) for name, value in message.parameters.items()},
        inputs=inputs_by_name(inputs),
        outputs=tuple(output.name for output in message.outputs),
    )


def write_infer(answer: InferAnswer) -> pb.ModelInferResponse:
    """The response of an answer."""
    response = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=answer.id)
    for tensor in answer.tensors:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.values.shape)
        response.raw_output_contents.append(tensor.raw())
    for name, value in answer.parameters.items():
        _write_parameter(response.parameters[name], value)
    return response


def _parsed(message: type[M], content: bytes) -> M:
    if has_too_many_fields(content):
        raise RequestError("request", f"more than {MOST_TOP_FIELDS} fields")
    try:
        return message.FromString(content)
    except UNREADABLE:
        name = message.DESCRIPTOR.name
        raise RequestError("request", f"the bytes are not a {name} message whose texts are UTF-8") from None


def _read_input(message: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> InferInput:
    require_no_shared_memory(message.name, message.parameters)
    require_axes(message.name, len(message.shape))
    content: Any = raw
    if message.HasField("contents"):
        fields = [field.name for field, _ in message.contents.ListFields()]
        if raw is not None and fields:
            raise RequestError(
                shown(message.name),
                "has contents, although the request has raw_input_contents",
                help="send one of them",
            )
        wanted = _FIELDS.get(message.datatype)
        for field in fields:
            if wanted and field != wanted:
                raise RequestError(shown(message.name), f"{message.datatype} in {field}; it belongs into {wanted}")
        if raw is None and fields:
            content = getattr(message.contents, fields[0])
    return InferInput(message.name, message.datatype, tuple(message.shape), content)


def _require_known_parts(message: pb.ModelInferRequest) -> None:
    for one in message.inputs:
        _require_known(one.name, one)
        _require_known(one.name, one.contents)
    for output in message.outputs:
        _require_known(output.name, output)


def _require_known(owner: str, message: Message) -> None:
    if unknown := unknown_field(message):
        raise RequestError(shown(owner), f"field {unknown} is not known to this server")


def _read_parameter(name: str, message: pb.InferParameter) -> Parameter:
    kind = message.WhichOneof("parameter_choice")
    if kind is None:
        raise RequestError(f"parameters.{shown(name)}", "has no value")
    value: Parameter = getattr(message, kind)
    return value


def _write_parameter(message: pb.InferParameter, value: Parameter) -> None:
    match value:
        case bool():
            message.bool_param = value
        case int():
            message.int64_param = value
        case float():
            message.double_param = value
        case str():
            message.string_param = value
