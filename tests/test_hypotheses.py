"""The unknown token's replacement."""

from __future__ import annotations

import numpy as np
import pytest

from t2tdeploy.decoding import LengthLimits, SearchKey
from t2tdeploy.features import EOS_ID, UNK_ID
from t2tdeploy.hypotheses import hypotheses_of
from t2tdeploy.runtime import SearchResult
from t2tdeploy.sentences import Sentence
from t2tdeploy.tokenizer import Tokenizer, encode_with_eos, train_tokenizer

KEY = SearchKey(1, 0.6, 1, LengthLimits(5), replace_unknown=True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["the dog runs", "a dog sleeps", "the cat runs", "cats and dogs sleep"] * 20
    return train_tokenizer(texts, kind="unigram", vocab_size=40, sample_size=1000, byte_fallback=False)


def found(tokenizer: Tokenizer, source: str, ids: list[int], looks: list[int], *, cut: int | None = None) -> str:
    sentence = Sentence([*encode_with_eos(tokenizer, source)[:-1][:cut], EOS_ID], text=source)
    attention = np.zeros((1, 1, len(ids), len(sentence.ids)), np.float32)
    for position, at in enumerate(looks):
        if at >= 0:
            attention[0, 0, position, at] = 0.9
    result = SearchResult(
        target_ids=np.array([[ids]]),
        scores=np.zeros((1, 1), np.float32),
        lengths=np.array([[len(ids)]]),
        finished=np.array([True]),
        attention=attention,
    )
    return hypotheses_of(result, 0, sentence, KEY, tokenizer, tokenizer)[0].text


def test_the_unknown_token_becomes_what_it_looked_at(tokenizer: Tokenizer) -> None:
    source = "the Ж runs"
    surfaces = tokenizer.surfaces(source)
    assert len(surfaces) == len(tokenizer.encode(source))
    unknown = tokenizer.encode(source).index(UNK_ID)
    assert "Ж" in surfaces[unknown]
    ids = encode_with_eos(tokenizer, source)
    assert found(tokenizer, source, ids, list(range(len(ids)))) == source


def test_a_source_piece_that_the_target_lacks_keeps_its_words_apart(tokenizer: Tokenizer) -> None:
    source, dog = "ЖЩ", tokenizer.encode("dog")
    at = next(i for i, surface in enumerate(tokenizer.surfaces(source)) if "Ж" in surface)
    assert found(tokenizer, source, [*dog, UNK_ID, EOS_ID], [*[0] * len(dog), at, 0]).startswith("dog")
    assert "\u2581" not in found(tokenizer, source, [*dog, UNK_ID, EOS_ID], [*[0] * len(dog), at, 0])


def test_the_end_of_a_cut_source_and_no_attention_replace_nothing(tokenizer: Tokenizer) -> None:
    dog = tokenizer.encode("dog")
    cut = found(tokenizer, "dog runs", [*dog, UNK_ID, EOS_ID], [*[0] * len(dog), len(dog), 0], cut=len(dog))
    assert cut == "dog"
    silent = found(tokenizer, "dog runs", [*dog, UNK_ID, EOS_ID], [-1] * (len(dog) + 2))
    assert silent == tokenizer.decode([*dog, UNK_ID])
