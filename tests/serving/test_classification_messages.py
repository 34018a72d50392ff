"""Messages of classification: what a client sends is what the server reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.columns.values import as_text
from t2tdeploy.errors import RequestError
from t2tdeploy.serving.classification_messages import (
    parse_classify_request,
    read_classify_request,
    write_classify_request,
)
from t2tdeploy.serving.v1 import classification_pb2 as pb

values = st.one_of(
    st.text(max_size=5),
    st.floats(width=32),
    st.integers(-(2**60), 2**60),
    st.booleans(),
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
    st.binary(max_size=9),
)


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.text(min_size=1, max_size=4), values, min_size=1, max_size=4), min_size=1, max_size=4)
)
def test_examples_arrive_as_they_were_sent(examples: list[dict[str, Any]]) -> None:
    message = write_classify_request(examples, top_k=3, truncate=True, priority=-1)
    call = read_classify_request(parse_classify_request(message.SerializeToString()), None)
    assert (call.top_k, call.truncate, call.priority) == (3, True, -1)
    for got, sent in zip(call.examples, examples, strict=True):
        assert isinstance(got, dict)
        assert got.keys() == sent.keys()
        assert all(repr(got[name]) == repr(_on_the_wire(one)) for name, one in sent.items())


def _on_the_wire(value: Any) -> Any:
    """Numbers are doubles there, and whole ones that a double does not hold are texts."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return float(value) if abs(value) <= 2**53 else str(value)


def test_whole_numbers_and_truth_values_mean_what_they_mean_without_a_server() -> None:
    sent = {"account": 12345678901234567, "huge": 10**400, "flag": True, "other": np.False_}
    message = write_classify_request([sent], top_k=1, truncate=False)
    (got,) = read_classify_request(message, None).examples
    assert {name: as_text(value) for name, value in got.items()} == {name: as_text(one) for name, one in sent.items()}


@pytest.mark.parametrize("shape", [[1] * 65, [0, 2**40, 2**40]], ids=["axes", "sizes"])
def test_a_shape_beyond_all_arrays_is_named(shape: list[int]) -> None:
    tensor = pb.Tensor(shape=shape, numbers=[1.0] if 0 not in shape else [])
    request = pb.ClassifyRequest(examples=[pb.Example(features={"x": pb.Value(tensor=tensor)})])
    with pytest.raises(RequestError, match=r"examples\[0\]\.x"):
        read_classify_request(request, None)
