"""Bytes that are no message are refused by name, whichever implementation of protobuf reads them."""

import subprocess
import sys

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import RequestError
from t2tdeploy.serving import unreadable
from t2tdeploy.serving.inference import messages as inference
from t2tdeploy.serving.inference.v2 import inference_pb2
from t2tdeploy.serving.messages import parse_request, read_options
from t2tdeploy.serving.unreadable import MOST_FIELDS, MOST_TOP_FIELDS, field_of_invalid_text, unknown_field
from t2tdeploy.serving.v1 import translation_pb2 as pb

READ = """
from google.protobuf.internal import api_implementation
from t2tdeploy.errors import RequestError
from t2tdeploy.serving.classification_messages import parse_classify_request
from t2tdeploy.serving.document_messages import parse_document_request
from t2tdeploy.serving.inference.messages import parse
from t2tdeploy.serving.inference.v2 import inference_pb2
from t2tdeploy.serving.messages import parse_request
assert api_implementation.Type() == {implementation!r}
infer = lambda content: parse(inference_pb2.ModelInferRequest, content)
for read in (parse_request, parse_document_request, parse_classify_request, infer):
    for content in (b"\\x0a\\x01\\xff", b"\\x0a\\xff\\xff\\xff\\xff\\x0fabc", b"\\xff" * 20, b"\\x0a\\x05ab"):
        try:
            read(content)
        except RequestError as error:
            assert error.field in ("model", "request"), error
        else:
            raise AssertionError((read, content))
"""
FIND_UNKNOWN = """
from google.protobuf.internal import api_implementation
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb
from t2tdeploy.serving.unreadable import has_unknown_field
assert api_implementation.Type() == {implementation!r}
def read(size, faulty):
    # A request of which one message, if any, has a field more.
    request = pb.ModelInferRequest(model_name="m")
    request.parameters["p"].bool_param = True
    request.inputs.add(name="x").contents.int_contents.extend([1] * size)
    request.outputs.add(name="y")
    parts = (request, request.inputs[0], request.inputs[0].contents, request.outputs[0], request.parameters["p"])
    if faulty is not None:
        parts[faulty].MergeFromString(b"\\xfa\\x06\\x01x")
    content = request.SerializeToString()
    return pb.ModelInferRequest.FromString(content), content
for size in (1, 10_000):
    assert not has_unknown_field(*read(size, None))
    for part in range(5):
        message, content = read(size, part)
        assert has_unknown_field(message, content), (size, part)
        assert message.SerializeToString() == content
"""


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("script", [READ, FIND_UNKNOWN], ids=["bytes", "unknown fields"])
def test_every_message_says_what_is_wrong_with_its_bytes(script: str, implementation: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script.format(implementation=implementation)],
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def field(number: int, content: bytes) -> bytes:
    """A text or message of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


OTHERS = {"varint": b"\x78\xff\x7f", "fixed64": b"\x79" + b"\xff" * 8, "fixed32": b"\x7d" + b"\xff" * 4}
OTHERS["group"] = b"\x7b" + field(2, b"\xff") + b"\x7c"  # what is in it is no field of the message


@pytest.mark.parametrize("other", OTHERS)
def test_the_invalid_text_is_found_behind_fields_of_every_kind(other: str) -> None:
    content = OTHERS[other] + field(2, b"a") + OTHERS[other] + field(2, b"\xff")
    with pytest.raises(RequestError, match=r"^sources\[1\]: not valid UTF-8"):
        parse_request(content)


def test_only_so_many_fields_are_looked_at_for_an_invalid_text(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    varint = unreadable._varint
    monkeypatch.setattr(unreadable, "_varint", lambda content, place: read.append(place) or varint(content, place))
    with pytest.raises(RequestError, match=r"^request: the bytes are not a TranslateRequest"):
        parse_request(field(2, b"") * 20 * MOST_FIELDS + field(2, b"\xff"))
    assert len(read) <= 2 * MOST_FIELDS + 2  # a tag and a length of each


@given(st.binary(max_size=40))
def test_any_bytes_can_be_looked_at(content: bytes) -> None:
    field_of_invalid_text(content, {1: "model"}, {2: "sources"})


@settings(max_examples=200)
@given(
    known=st.text(max_size=3), numbers=st.lists(st.integers(20, 2**29 - 1).filter(lambda one: not 19000 <= one < 20000))
)
def test_a_field_that_is_not_known_is_named_in_messages_of_any_size(known: str, numbers: list[int]) -> None:
    content = pb.TranslateRequest(model=known).SerializeToString()
    for number in numbers:
        tag = number << 3
        while tag >= 128:
            content, tag = content + bytes([tag & 127 | 128]), tag >> 7
        content += bytes([tag, 0])
    small = pb.TranslateRequest.FromString(content)
    large = pb.TranslateRequest.FromString(content + field(2, b"x" * 100) * 100)
    assert unknown_field(small) == unknown_field(large) == (numbers[0] if numbers else None)
    assert len(large.sources) == 100


def test_no_object_is_made_of_each_of_many_unknown_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(message: pb.TranslateRequest) -> UnknownFieldSet:
        assert message.ByteSize() < 10_000
        return UnknownFieldSet(message)

    monkeypatch.setattr(unreadable, "UnknownFieldSet", few)
    many = b"\xf8\x01\x00" * 100_000
    with pytest.raises(RequestError, match=r"^options: field 31 is not known"):
        read_options(pb.DecodeOptions.FromString(many))
    with pytest.raises(RequestError, match=r"^request: field 31 is not known"):
        inference.parse(inference_pb2.ModelInferRequest, many)


def test_no_more_fields_are_read_than_a_request_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of empty messages fit into a request of the usual size."""
    read: list[int] = []
    varint = unreadable._varint
    monkeypatch.setattr(unreadable, "_varint", lambda content, place: read.append(place) or varint(content, place))
    inputs = field(5, b"") * MOST_TOP_FIELDS
    assert len(inference.parse(inference_pb2.ModelInferRequest, inputs).inputs) == MOST_TOP_FIELDS
    read.clear()
    with pytest.raises(RequestError, match=rf"^request: more than {MOST_TOP_FIELDS} fields"):
        inference.parse(inference_pb2.ModelInferRequest, inputs * 3)
    assert len(read) <= 2 * MOST_TOP_FIELDS + 2  # a tag and a length of each
