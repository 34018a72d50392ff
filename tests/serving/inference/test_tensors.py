"""What numpy holds, tritonclient writes and the server reads is the same, and so is the way back; lies are told apart
by what they say, not by what they would cost."""

import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import InferInput as TritonInput
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.http import InferInput as TritonHttpInput
from tritonclient.utils import np_to_triton_dtype

from t2tdeploy.errors import RequestError
from t2tdeploy.serving.inference.calls import InferAnswer
from t2tdeploy.serving.inference.messages import parse, read_infer, write_infer
from t2tdeploy.serving.inference.tensors import DATATYPES, MAX_AXES, RAW_ONLY, InferInput, Tensor, write_raw
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb

DTYPES = {
    np_to_triton_dtype(np.dtype(one)): np.dtype(one)
    for one in ("bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "O")
}
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
TYPED = {"int_contents": "INT8 INT16 INT32", "uint_contents": "UINT8 UINT16 UINT32"} | {
    field: field.removesuffix("_contents").upper()
    for field in (
        "bool_contents",
        "int64_contents",
        "uint64_contents",
        "fp32_contents",
        "fp64_contents",
        "bytes_contents",
    )
}
FIELD_OF = {datatype: field for field, datatypes in TYPED.items() for datatype in datatypes.split()}


@st.composite
def tensors(draw, datatypes=tuple(DTYPES)):
    """A datatype and an array of it."""
    datatype = draw(st.sampled_from(datatypes))
    if datatype == "BYTES":
        return datatype, draw(arrays.arrays(np.object_, SHAPES, elements=st.binary(max_size=6), fill=st.nothing()))
    return datatype, draw(arrays.arrays(DTYPES[datatype], SHAPES))


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.shape != expected.shape:
        return False
    if found.dtype == object:
        return found.tolist() == expected.tolist()
    return found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


def through_the_wire(theirs: service_pb2.ModelInferRequest) -> InferInput:
    (found,) = read_infer(parse(pb.ModelInferRequest, theirs.SerializeToString())).inputs.values()
    return found


def test_all_datatypes_are_tested() -> None:
    assert {*DTYPES, "BF16"} == set(DATATYPES)
    assert set(FIELD_OF) | set(RAW_ONLY) == set(DATATYPES)


@settings(max_examples=50)
@given(tensors())
def test_what_tritonclient_sends_is_read(tensor) -> None:
    datatype, values = tensor
    written = TritonInput("x", values.shape, datatype).set_data_from_numpy(values)
    request = service_pb2.ModelInferRequest(inputs=[written._get_tensor()], raw_input_contents=[written._get_content()])
    assert same(through_the_wire(request).read(), values)


@settings(max_examples=50)
@given(tensors())
def test_what_is_written_tritonclient_reads(tensor) -> None:
    datatype, values = tensor
    response = write_infer(
        InferAnswer("m", "1", "", [Tensor("before", "BYTES", np.array([b"x"], object)), Tensor("x", datatype, values)])
    )
    found = InferResult(service_pb2.ModelInferResponse.FromString(response.SerializeToString())).as_numpy("x")
    assert same(found, values)


@settings(max_examples=50)
@given(tensors(tuple(set(DTYPES) - set(RAW_ONLY))))
def test_typed_contents_are_read(tensor) -> None:
    datatype, values = tensor
    request = service_pb2.ModelInferRequest()
    one = request.inputs.add(name="x", datatype=datatype, shape=values.shape)
    getattr(one.contents, FIELD_OF[datatype]).extend(values.ravel().tolist())
    found = through_the_wire(request).read()
    assert found.shape == values.shape
    np.testing.assert_array_equal(found, values)


@settings(max_examples=50)
@given(tensors(tuple(set(DTYPES) - {*RAW_ONLY, "BYTES"})), st.booleans())
def test_json_data_are_read_flat_or_nested(tensor, nested: bool) -> None:
    datatype, values = tensor
    data = values.tolist() if nested and values.ndim else values.ravel().tolist()
    np.testing.assert_array_equal(InferInput("x", datatype, values.shape, data).read(), values)


def test_json_data_of_tritonclient_are_read() -> None:
    values = np.array([["ein Haus", "日本語"]], object)
    written = TritonHttpInput("x", values.shape, "BYTES").set_data_from_numpy(values, binary_data=False)._get_tensor()
    found = InferInput("x", "BYTES", tuple(written["shape"]), written["data"]).read()
    assert [one.decode() for one in found.ravel()] == values.ravel().tolist()


@settings(max_examples=50)
@given(arrays.arrays(np.float32, SHAPES))
def test_bfloat16_is_rounded_as_ml_dtypes_rounds(values: np.ndarray) -> None:
    raw = write_raw("BF16", values)
    expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    found = InferInput("x", "BF16", values.shape, raw).read()
    np.testing.assert_array_equal(found, expected)
    assert write_raw("BF16", found) == raw or np.isnan(found).any()


HUGE = 2**62
LIES = {
    "huge": ((HUGE,), "INT64", b"\0" * 8),
    "huge bytes": ((HUGE,), "BYTES", b"\0" * 8),
    "a product beyond 64 bits": ((HUGE, HUGE), "INT64", b"\0" * 8),
    "a product that is 0 in 64 bits": ((2**32, 2**32), "INT64", b""),
    "negative": ((-1,), "INT64", b""),
    "negative twice": ((-2, -2), "INT64", b"\0" * 32),
    "many axes": ((1,) * (MAX_AXES + 1), "INT64", b"\0" * 8),
    "very many axes": ((HUGE,) * 100_000, "INT64", b"\0" * 8),
    "too few bytes": ((3,), "INT64", b"\0" * 23),
    "too many bytes": ((3,), "INT64", b"\0" * 25),
    "nothing, but much of it": ((0, 2**40), "INT64", b""),
    "a number of many digits": ((10**4000, 10**4000), "INT64", b""),
    "no data": ((3,), "INT64", None),
    "unknown datatype": ((1,), "INT128", b"\0" * 16),
    "no datatype": ((1,), "", b"\0"),
    "an element that is longer than the rest": ((1,), "BYTES", struct.pack("<I", 2**32 - 1) + b"ab"),
    "half a length": ((2,), "BYTES", struct.pack("<I", 4) + b"abcd" + b"\0\0"),
    "more elements than there are": ((2,), "BYTES", struct.pack("<I", 9) + b"123456789"),
    "fewer elements than there are": ((1,), "BYTES", b"\0" * 8),
    "elements of half precision": ((1,), "FP16", [1.0]),
    "a number beyond its datatype": ((1,), "INT8", [128]),
    "a number far beyond its datatype": ((1,), "FP64", [10**400]),
    "a negative number of an unsigned datatype": ((1,), "UINT64", [-1]),
    "true as a number": ((1,), "INT32", [True]),
    "a number as truth": ((1,), "BOOL", [1]),
    "a fraction as a whole number": ((1,), "INT32", [1.5]),
    "a text as a number": ((1,), "FP32", ["1.5"]),
    "a number as a text": ((1,), "BYTES", [1]),
    "null": ((1,), "INT32", [None]),
    "half a surrogate": ((1,), "BYTES", ["\ud800"]),
    "ragged": ((2, 2), "INT32", [[1], [2, 3, 4]]),
    "nested more deeply": ((1,), "INT32", [[1]]),
    "too few elements": ((HUGE,), "INT32", [1, 2]),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_named_and_cost_nothing(lie: str) -> None:
    shape, datatype, content = LIES[lie]
    tracemalloc.start()
    with pytest.raises(RequestError, match=r"^x(\[0\])?: ") as caught:
        InferInput("x", datatype, shape, content).read()
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert len(str(caught.value)) < 400


@settings(max_examples=150)
@given(
    st.sampled_from(DATATYPES),
    st.lists(st.integers(-1, 5) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.none() | st.binary(max_size=40) | st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text()),
)
def test_any_tensor_is_read_as_it_says_or_refused(datatype: str, shape: list[int], content: object) -> None:
    try:
        found = InferInput("x", datatype, tuple(shape), content).read()
    except RequestError as refused:
        error = refused
    else:
        error, found_shape = None, found.shape
    assert error.field.startswith("x") if error else found_shape == tuple(shape)
