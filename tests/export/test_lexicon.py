"""Laws of the lexicon: model 1 as plain loops find it, whatever the chunks; what a translation may always have."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from t2tdeploy.decoding import MAX_BEAM_SIZE
from t2tdeploy.export import lexicon
from t2tdeploy.export.lexicon import Lexicon, make_lexicon
from t2tdeploy.features import EOS_ID, PAD_ID

Pairs = list[tuple[list[int], list[int]]]
SOURCE, TARGET = 30, 40
NULL = SOURCE


def translations(seed: int, count: int) -> Pairs:
    """Sentences whose words are translated by adding 7, in any order, with word 3 among them for nothing."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        source = random.integers(3, SOURCE, random.integers(1, 7)).tolist()
        target = [3, *(word + 7 for word in source)]
        pairs.append((source, random.permutation(target).tolist()))
    return pairs


def make(pairs: Pairs, *, shared: bool = False, width: int = 5, iterations: int = 5) -> Lexicon:
    return make_lexicon(
        pairs, source_size=SOURCE, target_size=TARGET, shared=shared, width=width, iterations=iterations
    )


def model_1(pairs: Pairs, iterations: int) -> dict[tuple[int, int], float]:
    """Brown et al. 1993, in loops."""
    found: dict[tuple[int, int], float] = defaultdict(lambda: 1 / TARGET)
    for _ in range(iterations):
        counts: dict[tuple[int, int], float] = defaultdict(float)
        totals: dict[int, float] = defaultdict(float)
        for source, target in pairs:
            for word in target:
                all_of_it = sum(found[one, word] for one in [NULL, *source])
                for one in [NULL, *source]:
                    share = found[one, word] / all_of_it
                    counts[one, word] += share
                    totals[one] += share
        found = defaultdict(float, {(one, word): count / totals[one] for (one, word), count in counts.items()})
    return found


def test_it_is_model_1() -> None:
    pairs = translations(1, 20)
    expected = model_1(pairs, 4)
    table = make(pairs, width=TARGET, iterations=4).table
    for source in range(SOURCE):
        words = [(-round(chance, 12), word) for (one, word), chance in expected.items() if one == source]
        ranked = [word for _, word in sorted(words)]
        assert table[source].tolist() == [*ranked, *[PAD_ID] * (TARGET - len(ranked))]


def test_it_finds_the_translations() -> None:
    table = make(translations(2, 300)).table
    assert [table[word, 0] for word in range(3, SOURCE)] == [word + 7 for word in range(3, SOURCE)]
    assert not table[:3].any()  # they occur in no sentence


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = translations(3, 50)
    whole = make(pairs)
    monkeypatch.setattr(lexicon, "CHUNK", 7)
    assert np.array_equal(make(pairs).table, whole.table)


def test_what_is_frequent_is_always_allowed_and_so_is_the_end() -> None:
    """Of the frequent at least so many as the widest beam chooses from, however narrow the table is."""
    pairs = translations(4, 100)
    made, wider = make(pairs, width=2), make(pairs, width=35)
    counts = Counter(word for _, target in pairs for word in target)
    for one, width in ((made, 2 * MAX_BEAM_SIZE), (wider, 35)):
        frequent = sorted(range(TARGET), key=lambda word: (-counts[word], word))[:width]
        assert one.always.tolist() == sorted({PAD_ID, EOS_ID, *frequent})
    assert made.table.shape == (SOURCE, 2)
    assert made.allowed([5, 9]) == {*made.always.tolist(), *made.table[5].tolist(), *made.table[9].tolist()}


def test_ids_of_one_vocabulary_may_be_copied() -> None:
    pairs = translations(5, 100)
    apart, shared = make(pairs), make(pairs, shared=True)
    assert shared.table[:, 0].tolist() == [*range(SOURCE)]
    assert np.array_equal(shared.table[:, 1:], apart.table)


def test_no_sentences_make_no_lexicon() -> None:
    with pytest.raises(ValueError, match="pairs is empty"):
        make([])
