"""Requests that are not what they should be, over gRPC and as JSON: each is refused by the name of what is wrong."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import RequestError
from t2tdeploy.serving.inference import messages
from t2tdeploy.serving.inference.calls import InferRequest
from t2tdeploy.serving.inference.json_messages import parse_infer, plain
from t2tdeploy.serving.inference.messages import parse, parse_infer_request, read_infer
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb

Contents = pb.InferTensorContents


def any_counts(inputs: int, outputs: int, parameters: int) -> None:
    """No model has been asked."""


UNKNOWN_FIELD = b"\xfa\x06\x01x"  # field 111, a text


def request(*inputs: pb.ModelInferRequest.InferInputTensor, **fields) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name="m", inputs=inputs, **fields)


def tensor(name: str = "x", **fields) -> pb.ModelInferRequest.InferInputTensor:
    return pb.ModelInferRequest.InferInputTensor(name=name, **{"datatype": "INT64", "shape": [1], **fields})


def read_as_the_service_does(content: bytes) -> InferRequest:
    message, unknown = parse_infer_request(content)
    return read_infer(message, look_for_unknown=unknown)


BOOL = pb.InferParameter(bool_param=True)
ONE = Contents(int64_contents=[1])
BAD_MESSAGES = {
    "no message": (b"\xff\xff", "request: the bytes are not a ModelInferRequest"),
    "a name that is not UTF-8": (b"\x0a\x01\xff", "request: the bytes are not a ModelInferRequest"),
    "an unknown field": (request().SerializeToString() + UNKNOWN_FIELD, "request: field 111 is not known"),
    "an unknown field of an input": (
        request(pb.ModelInferRequest.InferInputTensor.FromString(tensor().SerializeToString() + UNKNOWN_FIELD)),
        "x: field 111 is not known",
    ),
    "an unknown field of contents": (
        request(tensor(contents=Contents.FromString(ONE.SerializeToString() + UNKNOWN_FIELD))),
        "x: field 111 is not known",
    ),
    "fewer raw contents than inputs": (
        request(tensor(), tensor("y"), raw_input_contents=[b"\0" * 8]),
        "raw_input_contents: 1 for 2 inputs",
    ),
    "more raw contents than inputs": (request(raw_input_contents=[b""]), "raw_input_contents: 1 for 0 inputs"),
    "raw and contents": (
        request(tensor(contents=ONE), tensor("y"), raw_input_contents=[b"", b""]),
        "x: has contents, although the request has raw_input_contents",
    ),
    "contents of another datatype": (
        request(tensor(contents=Contents(fp32_contents=[1]))),
        "x: INT64 in fp32_contents; it belongs into int64_contents",
    ),
    "contents of two datatypes": (
        request(tensor(contents=Contents(int64_contents=[1], bool_contents=[True]))),
        "x: INT64 in bool_contents",
    ),
    "the same input twice": (request(tensor(), tensor()), "x: given twice"),
    "shared memory": (
        request(tensor(parameters={"shared_memory_region": pb.InferParameter(string_param="r")})),
        "x: shared memory is not available",
    ),
    "an unknown parameter of an input": (request(tensor(parameters={"p": BOOL})), "x: unknown parameter 'p'"),
    "classes of an output": (
        request(outputs=[{"name": "y", "parameters": {"classification": pb.InferParameter(int64_param=3)}}]),
        "y: unknown parameter 'classification'",
    ),
    "a parameter without a value": (request(parameters={"p": pb.InferParameter()}), "parameters.p: has no value"),
}


@pytest.mark.parametrize("fault", BAD_MESSAGES)
def test_a_message_is_refused_by_the_name_of_its_fault(fault: str) -> None:
    content, words = BAD_MESSAGES[fault]
    content = content if isinstance(content, bytes) else content.SerializeToString()
    with pytest.raises(RequestError) as caught:
        read_infer(parse(pb.ModelInferRequest, content))
    assert str(caught.value).startswith(words)
    with pytest.raises(RequestError) as caught:
        read_as_the_service_does(content)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_request_without_unknown_fields_is_not_searched_for_one(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search copies every part of a large request."""
    monkeypatch.setattr(messages, "unknown_field", lambda _: pytest.fail("searched"))
    content = request(tensor(contents=Contents(int64_contents=[1] * size)), outputs=[{"name": "y"}]).SerializeToString()
    assert read_as_the_service_does(content).inputs["x"].content == [1] * size
    parse(pb.ModelInferRequest, content)


X = {"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}
RAW = {"name": "x", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}}
BAD_BODIES = {
    "nothing": (b"", "request: not JSON"),
    "no JSON": (b"{", "request: not JSON"),
    "no UTF-8": (b'{"id": "\xff"}', "request: not valid UTF-8"),
    "no object": (b"[]", "request: not a JSON object"),
    "NaN": (b'{"parameters": {"alpha": NaN}}', "request: not JSON: NaN is no JSON number"),
    "brackets without end": (b"[" * 100_000, "request: not JSON"),
    "a number of many digits": (b'{"id": ' + b"9" * 100_000 + b"}", "request: not JSON"),
    "an unknown field": ({"imputs": []}, "request: unknown field 'imputs'; valid choices: id, parameters, inputs"),
    "inputs that are no list": ({"inputs": {}}, "request.inputs: not a list"),
    "an input that is no object": ({"inputs": [1]}, "inputs[0]: not a JSON object"),
    "an input without a datatype": ({"inputs": [{"name": "x", "shape": []}]}, "inputs[0]: has no datatype"),
    "a shape of fractions": ({"inputs": [{**X, "shape": [1.0]}]}, "x: shape: not a list of whole numbers"),
    "data twice": ({"inputs": [{**RAW, "data": [1]}]}, "x: has data and binary_data_size"),
    "more raw bytes than there are": ({"inputs": [RAW]}, "x: binary_data_size = 4, but 0 bytes are left"),
    "a parameter that is a list": ({"parameters": {"p": []}}, "parameters.p: neither a text"),
    "an output without a name": ({"outputs": [{}]}, "outputs[0]: has no name"),
    "binary as a number": (
        {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        "parameters.binary_data: 1 is",
    ),
    "no name": ({"inputs": [{**X, "name": None}]}, "inputs[0]: has no name"),
    "a field that is not known, of nothing": ({"input": None}, "request: unknown field 'input'"),
    "shared memory": ({"inputs": [{**X, "parameters": {"shared_memory_region": "r"}}]}, "x: shared memory is not"),
}


@pytest.mark.parametrize("fault", BAD_BODIES)
def test_a_body_is_refused_by_the_name_of_its_fault(fault: str) -> None:
    body, words = BAD_BODIES[fault]
    with pytest.raises(RequestError) as caught:
        parse_infer(body if isinstance(body, bytes) else json.dumps(body).encode(), None, "m", "", any_counts)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "", "3", "99999999999999999999"])
def test_a_wrong_header_length_is_refused(length: str) -> None:
    with pytest.raises(RequestError, match=r"^Inference-Header-Content-Length: "):
        parse_infer(b"{}", length, "m", "", any_counts)


def test_bytes_that_belong_to_no_input_are_refused() -> None:
    with pytest.raises(RequestError, match=r"^request: 3 bytes are left"):
        parse_infer(b"{}abc", "2", "m", "", any_counts)


@pytest.mark.parametrize("field", ["inputs", "outputs", "parameters"])
def test_a_body_of_too_much_is_refused_before_it_is_read(field: str) -> None:
    """Every element is faulty, too, which is never found out."""

    def refuse(inputs: int, outputs: int, parameters: int) -> None:
        counts = {"inputs": inputs, "outputs": outputs, "parameters": parameters}
        assert counts.pop(field) == 1000
        assert not any(counts.values())
        raise RequestError(field, "too many")

    given = dict.fromkeys(map(str, range(1000))) if field == "parameters" else [{}] * 1000
    with pytest.raises(RequestError, match=f"^{field}: too many"):
        parse_infer(json.dumps({field: given}).encode(), None, "m", "", refuse)


def test_axes_are_counted_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "InferInput", lambda *_: pytest.fail("read"))
    with pytest.raises(RequestError, match=r"^x: 100000 axes, at most 8"):
        read_infer(request(tensor(shape=[1] * 100_000)))


def test_what_is_sent_both_ways_is_the_same_request() -> None:
    message = request(
        tensor(datatype="INT32", contents=Contents(int_contents=[7])),
        id="3",
        parameters={"beam_size": pb.InferParameter(int64_param=2)},
        outputs=[{"name": "y"}],
    )
    text = {"id": "3", "parameters": {"beam_size": 2}, "inputs": [{**X, "data": [7]}], "outputs": [{"name": "y"}]}
    raw = {**text, "inputs": [RAW]}
    header = json.dumps(raw).encode()
    found = [
        read_infer(parse(pb.ModelInferRequest, message.SerializeToString())),
        parse_infer(json.dumps(text).encode(), None, "m", "", any_counts).request,
        parse_infer(header + b"\7\0\0\0", str(len(header)), "m", "", any_counts).request,
    ]
    assert len({(one.model, one.version, one.id, str(one.parameters), one.outputs) for one in found}) == 1
    assert [one.inputs["x"].read().tolist() for one in found] == [[7]] * 3


def test_null_is_as_good_as_nothing() -> None:
    """Clients that write their own records as JSON leave it where there is nothing."""
    nothing = {"id": None, "parameters": None, "outputs": None, "model_name": None, "model_version": None}
    one = {**X, "parameters": None, "data": [7]}
    found = parse_infer(json.dumps({**nothing, "inputs": [one]}).encode(), None, "m", "", any_counts)
    assert found == parse_infer(json.dumps({"inputs": [{**X, "data": [7]}]}).encode(), None, "m", "", any_counts)
    outputs = [{"name": "y", "parameters": None}]
    content = json.dumps({"inputs": [{**RAW, "data": None}], "outputs": outputs}).encode()
    raw = parse_infer(content + b"\7\0\0\0", str(len(content)), "m", "", any_counts)
    assert raw.request.inputs["x"].read().tolist() == [7]
    assert parse_infer(b'{"inputs": null}', None, "m", "", any_counts).request.inputs == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters", "inputs", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.fixed_dictionaries({}, optional={"id": json_values, "inputs": json_values, "outputs": json_values}))
def test_any_json_is_a_request_or_refused(body: dict) -> None:
    with contextlib.suppress(RequestError):
        parse_infer(json.dumps(body).encode(), None, "m", "", any_counts)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_refused(content: bytes) -> None:
    with contextlib.suppress(RequestError):
        read_infer(parse(pb.ModelInferRequest, content))


def test_messages_become_json_of_the_protocol() -> None:
    """Numbers stay numbers, enums have their names, and what is empty is there."""
    config = pb.ModelConfig(
        name="m", max_batch_size=0, input=[pb.ModelInput(name="x", data_type=pb.TYPE_INT64, dims=[-1])]
    )
    config.parameters["p"].string_value = "v"
    found = json.loads(json.dumps(plain(config)))
    assert found["max_batch_size"] == 0
    assert found["input"] == [{"name": "x", "data_type": "TYPE_INT64", "dims": [-1], "optional": False}]
    assert found["output"] == []
    assert found["parameters"] == {"p": {"string_value": "v"}}
    assert "dynamic_batching" not in found
    assert plain(pb.ModelMetadataResponse(properties={"a": "b"}))["properties"] == {"a": "b"}
