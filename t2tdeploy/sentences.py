"""From source text to what a search takes, one rule for `decode`, `translate` and the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from t2tdeploy.errors import RequestError
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.tokenizer import Tokenizer, encode_with_eos


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


def encode_source(
    tokenizer: Tokenizer,
    source: str,
    *,
    field: str,
    max_length: int | None,
    truncate: bool = False,
    help: str = "split the text, or have a server cut it (translate --truncate)",
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
    try:
        source.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(field, f"not Unicode text: lone surrogate at character {error.start}") from None
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


def pad_rows(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Rows of ids -> [rows, longest row], PAD behind the shorter ones. There must be a row."""
    padded = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
