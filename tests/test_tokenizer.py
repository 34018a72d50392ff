"""Text -> ids -> text, for any text there is."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sentencepiece as sentencepiece_library
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import CorruptFileError, InputError, OperationalError, UnreadableError
from t2tdeploy.features import EOS_ID, PAD_ID, UNK_ID
from t2tdeploy.tokenizer import (
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    VocabularyKind,
    encode_with_eos,
    load_tokenizer,
    train_tokenizer,
)
from tests.unprivileged import as_nobody, folder_for_all

TRAINED: tuple[VocabularyKind, ...] = ("unigram", "bpe")
SIZE = 400
TEXTS = [
    f"The {size} {animal} number {number} plays in the snow; über {number * 37 % 101} Straßen, ça va?"
    for number in range(40)
    for animal in ("dog", "mouse", "hedgehog")
    for size in ("big", "small")
]


def train(kind: VocabularyKind, *, vocab_size: int = SIZE, texts: list[str] | Iterator[str] = TEXTS) -> Tokenizer:
    return train_tokenizer(texts, kind=kind, vocab_size=vocab_size, sample_size=1000)


@pytest.fixture(scope="module", params=TRAINED)
def sentencepiece(request: pytest.FixtureRequest) -> SentencePieceTokenizer:
    tokenizer = train(request.param)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


# Letters the vocabulary knows, characters in pieces (joined emoji, combining marks), what looks like markup, and
# everything else that is valid Unicode.
ANY_TEXT = st.lists(
    st.one_of(
        st.sampled_from(TEXTS),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.text(st.characters(categories=["Cc", "Cf", "Mn", "Zs", "Zl", "Zp"]), max_size=4),
        st.sampled_from(
            ["👩‍👩‍👧", "🇩🇪", "e\u0301", "\u0301", "\u2581", "\ufeff", "\ufffd", "</s>", "<pad>", "<0x41>", " "]
        ),
    ),
    max_size=4,
).map("".join)


@given(text=ANY_TEXT)
@example("a\u2581\u2581b")
@example("\x00 \x01")
@settings(max_examples=300)
def test_decoded_is_the_normalized_text(sentencepiece: SentencePieceTokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert sentencepiece.decode(ids) == sentencepiece.normalize(text)
    assert all(UNK_ID < token < sentencepiece.vocab_size for token in ids)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=20))
def test_normalization_keeps_the_letters(sentencepiece: SentencePieceTokenizer, text: str) -> None:
    """What is lost is white space and what NFKC unifies."""

    def letters(value: str) -> str:
        return "".join(c for c in unicodedata.normalize("NFKC", value) if unicodedata.category(c)[0] in "LN")

    assert letters(sentencepiece.normalize(text)) == letters(text)


def test_ways_of_writing_the_same_are_one(sentencepiece: SentencePieceTokenizer) -> None:
    assert sentencepiece.encode("ﬁne  e\u0301té\t①\n") == sentencepiece.encode("fine été 1")


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\x00\x1f\x7f\u2028😀")
def test_bytes_lose_nothing(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert all(UNK_ID < token < tokenizer.vocab_size for token in ids)


@pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes"])
def test_reserved_ids(kind: VocabularyKind) -> None:
    assert (PAD_ID, EOS_ID, UNK_ID) == (0, 1, 2)
    tokenizer = train(kind)
    ids = encode_with_eos(tokenizer, TEXTS[0])
    assert ids == [*tokenizer.encode(TEXTS[0]), EOS_ID]
    assert tokenizer.decode([PAD_ID, *ids, PAD_ID, *ids]) == TEXTS[0]  # pads are skipped, EOS ends
    assert tokenizer.decode([]) == tokenizer.decode([EOS_ID]) == ""


def test_unknown_ids_of_a_model_are_no_error() -> None:
    assert ByteTokenizer().decode([UNK_ID, 0x61 + 3, 0xFF + 3]) == "a\ufffd"


@pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes"])
def test_a_vocabulary_is_the_same_after_saving_and_loading(tmp_path: Path, kind: VocabularyKind) -> None:
    tokenizer = train(kind)
    (tmp_path / "a.vocab").write_bytes(tokenizer.to_bytes())
    loaded = load_tokenizer(tmp_path / "a.vocab")
    assert type(loaded) is type(tokenizer)
    assert (loaded.hash, loaded.vocab_size) == (tokenizer.hash, tokenizer.vocab_size)
    assert loaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


@pytest.mark.parametrize("kind", TRAINED)
def test_training_is_repeatable_and_depends_on_the_text(kind: VocabularyKind) -> None:
    assert train(kind).hash == train(kind).hash
    assert train(kind).hash != train(kind, texts=TEXTS[::3]).hash


@pytest.mark.parametrize("kind", TRAINED)
def test_a_sample_is_repeatable(kind: VocabularyKind) -> None:
    """Fewer sentences than there are: the sample is drawn, but from a seed."""
    words = [f"{first}{second} {second}{first}" for first in TEXTS[0] for second in "abcdefghijklmnopqrstuvwxyz"]

    def sampled(size: int) -> Tokenizer:
        return train_tokenizer(words, kind=kind, vocab_size=SIZE, sample_size=size)

    assert sampled(200).hash == sampled(200).hash != sampled(len(words)).hash


@pytest.mark.parametrize("kind", TRAINED)
def test_vocab_size_is_a_limit_that_little_text_does_not_reach(kind: VocabularyKind) -> None:
    assert train(kind, vocab_size=330).vocab_size <= 330
    soft = train(kind, vocab_size=30_000)
    assert SIZE / 2 < soft.vocab_size < 5000
    assert soft.decode(soft.encode(TEXTS[0])) == TEXTS[0]


@pytest.mark.parametrize("kind", TRAINED)
def test_one_word_makes_a_vocabulary(kind: VocabularyKind) -> None:
    tokenizer = train(kind, texts=["hello"])
    assert tokenizer.decode(tokenizer.encode("hello, 世界")) == "hello, 世界"


@pytest.mark.parametrize("kind", TRAINED)
def test_a_vocabulary_too_small_for_the_characters_names_the_size_that_works(kind: VocabularyKind) -> None:
    with pytest.raises(InputError, match="vocab_size = 100 is too small") as caught:
        train(kind, vocab_size=100)
    enough = re.search(r"at least (\d+)", caught.value.help or "")
    assert enough
    assert train(kind, vocab_size=int(enough[1]) + 1).vocab_size <= int(enough[1]) + 1


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("texts", [[], [""], ["   ", "\n"]], ids=["none", "empty", "blank"])
def test_no_text_is_an_error(kind: VocabularyKind, texts: list[str]) -> None:
    with pytest.raises(OperationalError, match="SentencePiece cannot make a vocabulary") as caught:
        train(kind, texts=texts)
    assert caught.value.help == "give more text"


@pytest.mark.parametrize("blank", [" ", ""])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_long_texts_are_learned_from(kind: VocabularyKind, blank: str) -> None:
    long = [blank.join(f"{word}{number}" for word in ["жизнь", "слово", "город"] * 400) for number in range(20)]
    assert all(len(text.encode()) > 3 * 4192 for text in long)
    for texts in (long, ["a short one", "and another"] * 40 + long):
        found = train_tokenizer(iter(texts), kind=kind, vocab_size=400, sample_size=1000)
        pieces = found.pieces(found.encode("жизнь слово город"))
        assert "".join(pieces).replace("▁", "") == "жизньсловогород"  # characters, not bytes


def test_long_texts_are_cut_where_words_end() -> None:
    words = ["fünf", "Ähren"] * 1000
    found = train_tokenizer([" ".join(words)], kind="bpe", vocab_size=300, sample_size=1000)
    assert found.pieces(found.encode("fünf Ähren")) == ["▁fünf", "▁Ähren"]
    same = train_tokenizer(words, kind="bpe", vocab_size=300, sample_size=10000)
    assert {*found.pieces(range(found.vocab_size))} == {*same.pieces(range(same.vocab_size))}


def test_bytes_need_no_text() -> None:
    def never() -> Iterator[str]:
        raise AssertionError("it was read")
        yield ""

    assert train("bytes", texts=never()).vocab_size == 259


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no vocabulary at .*a.vocab"):
        load_tokenizer(tmp_path / "a.vocab")


def test_a_file_that_cannot_be_read_is_neither_missing_nor_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.vocab").symlink_to("a.vocab")
    with pytest.raises(UnreadableError, match=r"a\.vocab cannot be read: Too many levels of symbolic links"):
        load_tokenizer(tmp_path / "a.vocab")
    with folder_for_all() as folder:
        (folder / "b.vocab").write_bytes(ByteTokenizer().to_bytes())
        (folder / "b.vocab").chmod(0)
        with as_nobody(), pytest.raises(UnreadableError, match=r"b\.vocab cannot be read: Permission denied"):
            load_tokenizer(folder / "b.vocab")


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"hello\n", lambda b: b[1:]])
def test_a_damaged_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.vocab"
    path.write_bytes(damage(train("unigram").to_bytes()))
    with pytest.raises(CorruptFileError, match=r"a\.vocab is damaged"):
        load_tokenizer(path)


def test_a_model_with_other_reserved_ids_is_refused(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece_library.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    path = tmp_path / "foreign.vocab"
    path.write_bytes(model.getvalue())
    with pytest.raises(CorruptFileError, match="pad, eos, unk are"):
        load_tokenizer(path)


SIGNS = "你好，世界？ x² ½ …"


@pytest.mark.parametrize(
    ("normalization", "seen"),
    [("identity", SIGNS), ("nfkc", "你好,世界? x2 1⁄2 ..."), ("nmt_nfkc", "你好,世界? x2 1⁄2 ...")],
)
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_normalization_decides_what_comes_back(kind, normalization, seen):
    texts = [SIGNS, "some more words", "and others"] * 20
    tokenizer = train_tokenizer(texts, kind=kind, vocab_size=330, sample_size=1000, normalization=normalization)
    assert tokenizer.decode(tokenizer.encode(SIGNS)) == tokenizer.normalize(SIGNS) == seen


def test_nmt_nfkc_alone_drops_control_and_invisible_characters():
    def seen(normalization):
        texts = ["some more words", "and others"] * 20
        return train_tokenizer(
            texts, kind="unigram", vocab_size=300, sample_size=1000, normalization=normalization
        ).normalize("a\x07b\u200bc")

    assert seen("nmt_nfkc") == "ab c"
    assert seen("nfkc") == seen("identity") == "a\x07b\u200bc"
