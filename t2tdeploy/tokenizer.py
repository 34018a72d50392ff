"""Text <-> ids: SentencePiece and bytes behind one protocol. Reserved ids: pad 0, eos 1, unk 2.

`encode` does not append EOS; problems and servers do, through `encode_with_eos`, so that both sides agree.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import sentencepiece

from t2tdeploy.errors import CorruptFileError, InputError, OperationalError, T2TDeployError, UnreadableError
from t2tdeploy.features import EOS_ID, PAD_ID, UNK_ID
from t2tdeploy.files import mode_of

VocabularyKind = Literal["unigram", "bpe", "bytes"]
Normalization = Literal["nmt_nfkc", "nfkc", "identity"]

_RESERVED = 3
_MOST_BYTES = 4192  # of a text in training; SentencePiece leaves longer ones out
_BYTES_FILE_CONTENT = b"t2tdeploy byte vocabulary: id = byte + 3\n"


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, reserved ones included."""

    @property
    def hash(self) -> str:
        """SHA-256 of the serialized vocabulary, hexadecimal."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without EOS."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` up to the first EOS; pads are skipped."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece of every id."""

    def id_of(self, piece: str) -> int | None:
        """The id of a piece; None if there is no such piece."""

    def surfaces(self, text: str) -> list[str]:
        """What of `text` each of its ids stands for; as pieces, but unknown characters as they are."""

    def join(self, pieces: Sequence[str]) -> str:
        """The text of pieces, those of no vocabulary as they are."""

    def to_bytes(self) -> bytes:
        """The vocabulary as a file's content; `load_tokenizer` reads it."""


def encode_with_eos(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of `text` with EOS behind them: what models are trained on and served with."""
    return [*tokenizer.encode(text), EOS_ID]


def _visible(ids: Iterable[int]) -> Iterator[int]:
    for token in ids:
        if token == EOS_ID:
            return
        if token != PAD_ID:
            yield int(token)


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018).

    Args:
        content: the serialized model.

    Raises:
        ValueError: not a SentencePiece model, or one with other reserved ids.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise ValueError("not a SentencePiece model") from error
        ids = (self._processor.pad_id(), self._processor.eos_id(), self._processor.unk_id())
        if ids != (PAD_ID, EOS_ID, UNK_ID):
            raise ValueError(f"pad, eos, unk are {ids}, not {(PAD_ID, EOS_ID, UNK_ID)}")

    @property
    def vocab_size(self) -> int:
        return int(self._processor.GetPieceSize())

    @property
    def hash(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.EncodeAsIds(text)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._processor.DecodeIds(list(_visible(ids)))
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._processor.IdToPiece(int(token)) for token in ids]

    def id_of(self, piece: str) -> int | None:
        token = int(self._processor.PieceToId(piece))
        return token if self._processor.IdToPiece(token) == piece else None

    def surfaces(self, text: str) -> list[str]:
        return list(self._processor.EncodeAsPieces(text))

    def join(self, pieces: Sequence[str]) -> str:
        return str(self._processor.DecodePieces(list(pieces)))

    def normalize(self, text: str) -> str:
        """The text as the vocabulary sees it (see `train_tokenizer`): what `decode(encode(text))` gives back."""
        return str(self._processor.Normalize(text)).replace("\u2581", " ").strip(" ")

    def to_bytes(self) -> bytes:
        return self._content


class ByteTokenizer:
    """UTF-8 bytes as ids, id = byte + 3; needs no training and knows every string."""

    vocab_size = 256 + _RESERVED

    def __init__(self) -> None:
        self._ids = {piece: token for token, piece in enumerate(self.pieces(range(self.vocab_size)))}

    @property
    def hash(self) -> str:
        return hashlib.sha256(_BYTES_FILE_CONTENT).hexdigest()

    def encode(self, text: str) -> list[int]:
        return [byte + _RESERVED for byte in text.encode("utf-8", errors="replace")]

    def decode(self, ids: Sequence[int]) -> str:
        values = bytes(token - _RESERVED for token in _visible(ids) if token >= _RESERVED)
        return values.decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        reserved = {PAD_ID: "<pad>", EOS_ID: "</s>", UNK_ID: "<unk>"}
        return [reserved.get(token, f"<0x{token - _RESERVED:02X}>") for token in ids]

    def id_of(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def surfaces(self, text: str) -> list[str]:
        return self.pieces(self.encode(text))

    def join(self, pieces: Sequence[str]) -> str:
        return self.decode([token for piece in pieces if (token := self.id_of(piece)) is not None])

    def to_bytes(self) -> bytes:
        return _BYTES_FILE_CONTENT


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a vocabulary file of either kind.

    Raises:
        InputError: there is no such file.
        CorruptFileError: the file is no vocabulary.
        UnreadableError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(mode_of(path)):
            raise InputError(f"no vocabulary at {path}", path=path, help="run t2tdeploy datagen first")
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableError(path, error) from error
    if content == _BYTES_FILE_CONTENT:
        return ByteTokenizer()
    try:
        return SentencePieceTokenizer(content)
    except ValueError as error:
        raise CorruptFileError(path, str(error)) from error


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: VocabularyKind,
    vocab_size: int,
    sample_size: int,
    character_coverage: float = 0.9995,
    normalization: Normalization = "nmt_nfkc",
    byte_fallback: bool = True,
    seed: int = 0,
) -> Tokenizer:
    """Trains a vocabulary on at most `sample_size` of `texts` (reservoir sampling inside SentencePiece).

    Texts of more than 4192 bytes, which SentencePiece would leave out, count as several.

    Args:
        kind: `unigram` (Kudo 2018), `bpe` (Sennrich et al. 2016), or `bytes`, which is not trained.
        vocab_size: entries wanted; a text with too few distinct pieces gives fewer (soft limit).
        character_coverage: share of characters that get a piece; the rest falls back to bytes.
        normalization: SentencePiece's rule, part of the vocabulary from then on. `nfkc` is Unicode's, `nmt_nfkc` also
            makes control and invisible characters blanks or nothing, `identity` leaves all characters alone. Runs of
            blanks become one with each of them.

    Raises:
        InputError: vocab_size is too small for the characters of these texts.
        OperationalError: SentencePiece cannot train on these texts (its own words), e.g. because they are empty.
    """
    if kind == "bytes":
        return ByteTokenizer()
    model = io.BytesIO()
    options: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": vocab_size,
        "hard_vocab_limit": False,
        "character_coverage": character_coverage,
        "normalization_rule_name": normalization,
        "byte_fallback": byte_fallback,
        "input_sentence_size": max(sample_size, 101),  # SentencePiece refuses fewer
        "shuffle_input_sentence": True,
        "pad_id": PAD_ID,
        "eos_id": EOS_ID,
        "unk_id": UNK_ID,
        "bos_id": -1,
        "max_sentence_length": _MOST_BYTES,
        "num_threads": 1,  # the result must not depend on the machine
        "minloglevel": 2,
    }
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.Train(sentence_iterator=_in_parts(texts), model_writer=model, **options)
    except RuntimeError as error:
        raise _training_error(str(error), vocab_size) from error
    return SentencePieceTokenizer(model.getvalue())


def _in_parts(texts: Iterable[str]) -> Iterator[str]:
    """`texts`, the long ones cut at blanks, which no piece spans, or else between any two characters."""
    for text in texts:
        content, start = text.encode(), 0
        while len(content) - start > _MOST_BYTES:
            end = content.rfind(b" ", start + 1, start + _MOST_BYTES)
            if end < 0:
                end = start + _MOST_BYTES
                while content[end] & 0xC0 == 0x80:  # inside a character
                    end -= 1
            yield content[start:end].decode()
            start = end
        yield content[start:].decode()


def _training_error(words: str, vocab_size: int) -> T2TDeployError:
    needed = re.search(r"required_chars\. \d+ vs (\d+)", words)
    if needed:
        return InputError(
            f"vocab_size = {vocab_size} is too small: "
            f"reserved ids, bytes and the characters of this text are {needed[1]} entries",
            help=f"set vocab_size to at least {needed[1]}, better to some thousands",
        )
    return OperationalError(f"SentencePiece cannot make a vocabulary from this text: {words}", help="give more text")
