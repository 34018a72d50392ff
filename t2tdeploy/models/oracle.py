"""Beam search as a plain Python loop over plain lists: slow, obvious, and what every faster form is tested against.

The semantics are Tensor2Tensor's (utils/beam_search.py) with three differences. The length limit is each sentence's
own, where Tensor2Tensor's follows the longest of the batch. A sentence is decided by itself, not when all are. With
fewer hypotheses asked than beams it is decided as soon as the last one asked for can no longer change (Tensor2Tensor
knows the first and the last of the beam). The last two save steps and change no result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from t2tdeploy.features import EOS_ID, PAD_ID

NextLogProbs = Callable[[list[list[int]]], Sequence[Sequence[float]]]
"""Prefixes, each starting with PAD -> for each the log-probabilities of all next ids."""


@dataclass(frozen=True)
class OracleHypothesis:
    """One result.

    Args:
        ids: EOS included if it was reached.
        score: length-normalized log-probability if EOS was reached, else the raw log-probability.
    """

    ids: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class OracleResult:
    """Hypotheses of one sentence, best first; `finished` says whether they reached EOS."""

    hypotheses: tuple[OracleHypothesis, ...]
    finished: bool


def length_penalty(length: int, alpha: float) -> float:
    """((5 + n) / 6)^alpha, Wu et al. 2016, equation 14."""
    return float(((5.0 + length) / 6.0) ** alpha)


def oracle_search(
    next_log_probs: NextLogProbs, *, beam_size: int, alpha: float, max_length: int, num_hypotheses: int = 1
) -> OracleResult:
    """Beam search for one sentence."""
    alive: list[tuple[float, list[int]]] = [(0.0, [PAD_ID])]
    finished: list[tuple[float, list[int]]] = []
    for step in range(max_length):
        rows = next_log_probs([ids for _, ids in alive])
        candidates = [
            (score + log_prob, [*ids, token])
            for (score, ids), row in zip(alive, rows, strict=True)
            for token, log_prob in enumerate(row)
        ]
        # sorted() is stable, so of equal candidates the one of the lower beam and id comes first.
        best = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * beam_size]
        alive = [candidate for candidate in best if candidate[1][-1] != EOS_ID][:beam_size]
        ended = [(score / length_penalty(step + 1, alpha), ids) for score, ids in best if ids[-1] == EOS_ID]
        finished = sorted(finished + ended, key=lambda candidate: -candidate[0])[:beam_size]
        if _decided(alive, finished, alpha=alpha, max_length=max_length, num_hypotheses=num_hypotheses):
            break
    chosen = finished if finished else alive
    return OracleResult(
        tuple(OracleHypothesis(tuple(ids[1:]), score) for score, ids in chosen[:num_hypotheses]), bool(finished)
    )


def _decided(
    alive: list[tuple[float, list[int]]],
    finished: list[tuple[float, list[int]]],
    *,
    alpha: float,
    max_length: int,
    num_hypotheses: int,
) -> bool:
    """True if no alive hypothesis can still become one of the `num_hypotheses` best."""
    if len(finished) < num_hypotheses:
        return False
    best_possible = alive[0][0] / length_penalty(max_length, alpha) if alive else -math.inf
    return best_possible <= finished[num_hypotheses - 1][0]


def exhaustive_search(
    next_log_probs: NextLogProbs, *, vocab_size: int, alpha: float, max_length: int
) -> list[OracleHypothesis]:
    """Scores every sequence that ends in EOS within `max_length`, best first: the oracle's own oracle."""
    words = [token for token in range(vocab_size) if token != EOS_ID]
    found = []
    for length in range(max_length):
        for middle in product(words, repeat=length):
            ids = [PAD_ID, *middle, EOS_ID]
            total = sum(next_log_probs([ids[:i]])[0][ids[i]] for i in range(1, len(ids)))
            found.append(OracleHypothesis(tuple(ids[1:]), total / length_penalty(length + 1, alpha)))
    return sorted(found, key=lambda hypothesis: -hypothesis.score)
