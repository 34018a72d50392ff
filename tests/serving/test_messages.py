import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import RequestError
from t2tdeploy.serving.messages import parse_request, read_options, write_options, write_request
from t2tdeploy.translator import TranslateOptions

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
options = st.builds(
    TranslateOptions,
    beam_size=st.none() | st.integers(-(2**31), 2**31 - 1),
    alpha=st.none() | st.floats(allow_nan=False),
    num_hypotheses=st.none() | st.integers(-(2**31), 2**31 - 1),
    extra_length=st.none() | st.integers(-(2**31), 2**31 - 1),
    truncate=st.booleans(),
    early_stopping=st.none() | st.booleans(),
    patience=st.none() | st.floats(allow_nan=False),
)


@settings(max_examples=100)
@given(model=texts, sources=st.lists(texts), options=options)
def test_a_request_arrives_as_it_was_written(model: str, sources: list[str], options: TranslateOptions) -> None:
    received = parse_request(write_request(model, sources, options).SerializeToString())
    assert (received.model, list(received.sources)) == (model, sources)
    assert read_options(received.options) == options
    assert read_options(write_options(options)) == options


@settings(max_examples=300)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_request_or_a_request_error(content: bytes) -> None:
    with contextlib.suppress(RequestError):
        read_options(parse_request(content).options)


@settings(max_examples=100)
@given(
    before=st.lists(texts, max_size=4),
    invalid=st.binary(min_size=1, max_size=9).filter(lambda content: not _is_utf8(content)),
    after=st.lists(texts, max_size=2),
)
def test_invalid_utf8_is_named_by_its_place(before: list[str], invalid: bytes, after: list[str]) -> None:
    content = b"".join(
        b"\x12" + bytes([len(source)]) + source
        for source in [*map(str.encode, before), invalid, *map(str.encode, after)]
    )
    with pytest.raises(RequestError) as caught:
        parse_request(content)
    assert caught.value.field == f"sources[{len(before)}]"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
