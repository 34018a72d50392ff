import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import RequestError
from t2tdeploy.features import EOS_ID
from t2tdeploy.sentences import encode_source, encode_sources, pad_rows
from t2tdeploy.tokenizer import ByteTokenizer, encode_with_eos

BYTES = ByteTokenizer()


@pytest.mark.parametrize("source", ["", " ", "\t\n", "\u3000"])
def test_a_blank_source_is_eos_alone(source: str) -> None:
    sentence = encode_source(BYTES, source, field="line 1", max_length=1)
    assert sentence.blank
    assert sentence.ids == [EOS_ID]


def test_the_longest_source_ends_with_eos_however_it_came_about() -> None:
    fits = encode_source(BYTES, "x" * 9, field="line 1", max_length=10)
    assert fits.ids == encode_with_eos(BYTES, "x" * 9)
    assert not fits.truncated
    cut = encode_source(BYTES, "x" * 99, field="line 1", max_length=10, truncate=True)
    assert (cut.ids, cut.truncated) == (fits.ids, True)
    assert len(encode_source(BYTES, "x" * 99, field="line 1", max_length=None).ids) == 100


def test_what_is_too_long_or_no_text_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="line 7: 11 tokens, the model takes 10"):
        encode_source(BYTES, "x" * 10, field="line 7", max_length=10)
    with pytest.raises(RequestError, match="line 7: not Unicode text: lone surrogate at character 1"):
        encode_source(BYTES, "a\ud800", field="line 7", max_length=10)


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(1, 500), max_size=6), min_size=1, max_size=6))
def test_padding_keeps_every_row_and_adds_only_pads(rows: list[list[int]]) -> None:
    padded = pad_rows(rows)
    assert padded.dtype == np.int64
    assert padded.shape == (len(rows), max(map(len, rows)))
    for found, row in zip(padded.tolist(), rows, strict=True):
        assert found == row + [0] * (len(found) - len(row))


def test_ids_are_the_source_that_their_text_is_padded_or_not() -> None:
    text = encode_source(BYTES, "ab", field="", max_length=9)
    for padding in ([], [0], [0, 0, 0]):
        (ids,) = encode_sources(BYTES, [[*text.ids, *padding]], max_length=9, truncate=False)
        assert (ids.ids, ids.truncated) == (text.ids, False)
    (blank,) = encode_sources(BYTES, [[EOS_ID, 0]], max_length=9, truncate=False)
    assert blank.blank


def test_too_many_ids_are_cut_as_their_text_is() -> None:
    long = [encode_source(BYTES, "x" * 99, field="", max_length=None).ids]
    assert encode_sources(BYTES, long, max_length=10, truncate=True)[0].ids == (
        encode_source(BYTES, "x" * 99, field="", max_length=10, truncate=True).ids
    )
    with pytest.raises(RequestError, match=r"^source_ids\[0\]: 100 tokens, the model takes 10"):
        encode_sources(BYTES, long, max_length=10, truncate=False)


@pytest.mark.parametrize("ids", [[], [0], [5], [5, 0], [EOS_ID, 5], [5, EOS_ID, 5, EOS_ID], [0, EOS_ID], [-1, EOS_ID]])
def test_ids_that_are_no_source_are_refused_by_name(ids: list[int]) -> None:
    with pytest.raises(RequestError, match=r"^source_ids\[1\]: "):
        encode_sources(BYTES, [[EOS_ID], ids], max_length=9, truncate=False)
    with pytest.raises(RequestError, match=r"^source_ids\[0\]: 999 at place 0 is not the id of a token"):
        encode_sources(BYTES, [[999, EOS_ID]], max_length=9, truncate=False)
