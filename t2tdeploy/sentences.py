"""From source text to what a search takes, one rule for `decode`, `translate` and the server."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from t2tdeploy.errors import RequestError
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.tokenizer import Tokenizer, encode_with_eos

Source = str | Sequence[int]
"""Text, or its ids with EOS at the end, perhaps padded."""


@dataclass(frozen=True)
class Sentence:
    """A source as the search takes it.

    Args:
        ids: EOS included; EOS alone if the source is blank.
        truncated: whether the source was cut.
        text: that the ids are of, whole.
        prefix: ids that the target starts with.
    """

    ids: list[int]
    truncated: bool = False
    text: str = ""
    prefix: tuple[int, ...] = ()

    @property
    def blank(self) -> bool:
        """Nothing to translate: its translation is the empty text, without a search. So a file with empty lines keeps
        its lines, and no model is asked about nothing."""
        return self.ids == [EOS_ID]


CUT_HELP = "split the text, or have it cut (translate --truncate)"


def encode_source(
    tokenizer: Tokenizer,
    source: str,
    *,
    field: str,
    max_length: int | None,
    truncate: bool = False,
    help: str = CUT_HELP,
) -> Sentence:
    """A source as ids.

    Args:
        field: what an error calls the source, e.g. "sources[3]".
        max_length: tokens that the model takes, EOS included; None: any number.
        truncate: cut a longer source instead of refusing it.
        help: what an error advises where it is too long.

    Raises:
        RequestError: the source is too long, or no Unicode text.
    """
    require_unicode(field, source)
    ids = encode_with_eos(tokenizer, source) if source.strip() else [EOS_ID]
    if max_length is None or len(ids) <= max_length:
        return Sentence(ids, text=source)
    if not truncate:
        raise RequestError(
            field,
            f"{len(ids)} tokens, the model takes {max_length}",
            help=help,
        )
    return Sentence([*ids[: max_length - 1], EOS_ID], truncated=True, text=source)


def encode_sources(
    tokenizer: Tokenizer, sources: Sequence[Source], *, max_length: int, truncate: bool, help: str = CUT_HELP
) -> list[Sentence]:
    """Sources of one request, in order.

    Raises:
        RequestError: naming the first that is too long, no Unicode text, or not the ids of a source.
    """
    return [
        encode_source(tokenizer, source, field=f"sources[{index}]", max_length=max_length, truncate=truncate, help=help)
        if isinstance(source, str)
        else _sentence_of_ids(tokenizer, _whole_numbers(source, index), f"source_ids[{index}]", max_length, truncate)
        for index, source in enumerate(sources)
    ]


def _whole_numbers(source: Sequence[int], index: int) -> list[int]:
    if not isinstance(source, bytes):
        with suppress(TypeError):
            return [operator.index(one) for one in source]
    raise RequestError(f"sources[{index}]", f"{source!r:.80} is neither a text nor the ids of one")


def _sentence_of_ids(tokenizer: Tokenizer, found: list[int], field: str, max_length: int, truncate: bool) -> Sentence:
    while found and found[-1] == PAD_ID:
        found.pop()
    if EOS_ID not in found or found.index(EOS_ID) != len(found) - 1:
        raise RequestError(field, f"the ids do not end with the first EOS, {EOS_ID}, and perhaps PAD, {PAD_ID}")
    for place, one in enumerate(found):
        if not PAD_ID < one < tokenizer.vocab_size:
            last = tokenizer.vocab_size - 1
            raise RequestError(field, f"{one} at place {place} is not the id of a token; they are 1 to {last}")
    if len(found) <= max_length:
        return Sentence(found)
    if not truncate:
        raise RequestError(field, f"{len(found)} tokens, the model takes {max_length}", help="split the text")
    return Sentence([*found[: max_length - 1], EOS_ID], truncated=True)


def require_unicode(field: str, text: str) -> None:
    """
    Raises:
        RequestError: naming the field; `text` is no text, or cannot be written as UTF-8.
    """
    if not isinstance(text, str):
        raise RequestError(field, f"{text!r:.80} is no text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(field, f"not Unicode text: lone surrogate at character {error.start}") from None


def pad_rows(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Rows of ids -> [rows, longest row], PAD behind the shorter ones. There must be a row."""
    padded = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
