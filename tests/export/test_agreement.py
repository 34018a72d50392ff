"""Laws of comparing two graphs' answers, and of the gate."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.export.agreement import Agreement, Answer, Gate, Quality, common_tokens, compare

ids = st.lists(st.integers(1, 4), max_size=6).map(tuple)


def subsequences(sequence: tuple[int, ...]) -> set[tuple[int, ...]]:
    return {chosen for size in range(len(sequence) + 1) for chosen in combinations(sequence, size)}


@given(ids, ids)
def test_common_tokens_are_those_of_the_longest_common_subsequence(one: tuple[int, ...], other: tuple[int, ...]):
    assert common_tokens(one, other) == max(map(len, subsequences(one) & subsequences(other)))


def test_a_graph_agrees_with_itself() -> None:
    answers = [Answer((5, 6, 1), -0.5), Answer((1,), -2.0)]
    assert compare(answers, answers) == Agreement(2, 1.0, 1.0, 0.0, 0.0, 0)


def test_one_word_more_costs_one_token() -> None:
    found = compare([Answer((9, 5, 6, 7, 1), -1.0)], [Answer((5, 6, 7, 1), -1.0)])
    assert (found.identical, found.token_agreement) == (0.0, 4 / 5)
    assert found.score_difference_median is found.score_difference_largest is None


def test_scores_of_other_sentences_are_not_compared() -> None:
    one = [Answer((5, 1), -1.0), Answer((6, 1), -1.0), Answer((7, 1), -1.0)]
    other = [Answer((5, 1), -1.25), Answer((6, 1), -1.5), Answer((8, 1), -99.0)]
    found = compare(one, other)
    assert (found.score_difference_median, found.score_difference_largest) == (0.375, 0.5)


def agreement(share: float = 1.0, without_score: int = 0) -> Agreement:
    return Agreement(10, share, share, 0.0, 0.0, without_score)


@pytest.mark.parametrize(
    ("found", "quality", "words"),
    [
        (agreement(), None, []),
        (agreement(0.9), Quality(30.0, 30.2, "s"), []),
        (agreement(), Quality(40.0, 30.0, "s"), []),
        (agreement(0.89), None, ["token agreement 0.8900 is below 0.9"]),
        (agreement(), Quality(30.0, 30.5, "s"), ["BLEU 30.00 is 0.50 below the 30.50 of float32, more than 0.25"]),
        (agreement(without_score=3), None, ["3 sentences have a score that is no number"]),
        (agreement(0.1), Quality(0.0, 30.0, "s"), ["token agreement", "BLEU"]),
    ],
)
def test_the_gate_says_which_number_failed(found: Agreement, quality: Quality | None, words: list[str]) -> None:
    failures = Gate(min_agreement=0.9, max_bleu_loss=0.25).failures(found, quality)
    assert len(failures) == len(words)
    assert all(word in failure for word, failure in zip(words, failures, strict=True))


def test_scores_that_are_no_numbers_are_counted() -> None:
    broken = [Answer((5, 1), math.nan), Answer((6, 1), -math.inf), Answer((7, 1), -1.0)]
    found = compare(broken, [Answer((5, 1), -1.0), Answer((6, 1), -1.0), Answer((7, 1), -1.0)])
    assert (found.without_score, found.score_difference_largest) == (2, 0.0)
