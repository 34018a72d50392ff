"""Beam search as a plain Python loop over plain lists: slow, obvious, and what every faster form is tested against.

The semantics are Tensor2Tensor's (utils/beam_search.py, and its greedy inference for a beam of one: the likeliest
token, until that ends) with three differences. The length limit is each sentence's own, where Tensor2Tensor's follows
the longest of the batch. A sentence is decided by itself, not when all are. With fewer hypotheses asked than beams it
is decided as soon as the last one asked for can no longer change (Tensor2Tensor knows the first and the last of the
beam). The last two save steps and change no result. Early stopping (`SearchControls.patience`) is not Tensor2Tensor's
and may change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.models.controls import LOWEST

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


@dataclass(frozen=True)
class OracleInputs:
    """What belongs to one sentence, besides its source.

    Args:
        min_length: ids that a hypothesis must have, EOS included.
        prefix: ids that it starts with.
        attention: as `NextLogProbs`, but the attention over the source that chooses the next id; for coverage.
        uniforms: [beam][step], the chances of samples.
    """

    min_length: int = 0
    prefix: tuple[int, ...] = ()
    attention: NextLogProbs | None = None
    uniforms: Sequence[Sequence[float]] = ()


def oracle_search(
    next_log_probs: NextLogProbs,
    *,
    beam_size: int,
    alpha: float,
    max_length: int,
    num_hypotheses: int = 1,
    controls: SearchControls = NO_CONTROLS,
    inputs: OracleInputs = OracleInputs(),
) -> OracleResult:
    """Beam search for one sentence."""
    beams = beam_size if controls.temperature > 0 else 1
    alive: list[tuple[float, list[int]]] = [(0.0, [PAD_ID])] * beams
    finished: list[tuple[float, list[int]]] = []
    count = 0  # of those that have ended, for early stopping
    for step in range(max_length):
        if not alive:
            break
        rows = next_log_probs([ids for _, ids in alive])
        candidates = [
            (score + log_prob, [*ids, token])
            for beam, ((score, ids), row) in enumerate(zip(alive, rows, strict=True))
            for log_prob, token in _choices(row, ids[1:], beam, controls, inputs)
            if not score + log_prob <= LOWEST  # masked by the model: impossible. NaN stays, to be found
        ]
        # sorted() is stable, so of equal candidates the one of the lower beam and id comes first.
        kept = 2 * beam_size if beam_size > 1 else 1
        best = sorted(candidates, key=lambda candidate: -candidate[0])[:kept]
        alive = [candidate for candidate in best if candidate[1][-1] != EOS_ID][:beam_size]
        ended = [
            (score / length_penalty(step + 1, alpha) + _coverage_penalty(ids, controls, inputs), ids)
            for score, ids in best
            if ids[-1] == EOS_ID
        ]
        finished = sorted(finished + ended, key=lambda candidate: -candidate[0])[:beam_size]
        count += sum(ids[-1] == EOS_ID for _, ids in best[:beam_size])
        if count >= controls.enough(beam_size, num_hypotheses):
            break
        if _decided(alive, finished, alpha=alpha, max_length=max_length, num_hypotheses=num_hypotheses):
            break
    chosen = finished if finished else alive
    return OracleResult(
        tuple(OracleHypothesis(tuple(ids[1:]), score) for score, ids in chosen[:num_hypotheses]), bool(finished)
    )


def _choices(
    row: Sequence[float], ids: list[int], beam: int, controls: SearchControls, inputs: OracleInputs
) -> list[tuple[float, int]]:
    """(log-probability, id) of what may follow `ids`."""
    step = len(ids)
    if step < len(inputs.prefix):
        return [(row[inputs.prefix[step]], inputs.prefix[step])]
    allowed = [
        (log_prob * controls.repetition_penalty if token in ids else log_prob, token)
        for token, log_prob in enumerate(row)
        if token not in controls.suppressed
        and not (token == EOS_ID and step + 1 < inputs.min_length)
        and not _repeats([*ids, token], controls.no_repeat_ngram_size)
        and not log_prob <= LOWEST
    ]
    if controls.temperature > 0 and allowed:
        return [_draw(allowed, inputs.uniforms[beam][step], controls)]
    return allowed


def _repeats(ids: list[int], size: int) -> bool:
    """Whether the last `size` ids have come before."""
    grams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
    return size > 0 and len(grams) > 1 and grams[-1] in grams[:-1]


def _draw(allowed: list[tuple[float, int]], uniform: float, controls: SearchControls) -> tuple[float, int]:
    """By inversion, from the likeliest."""
    ranked = sorted(allowed, key=lambda choice: -choice[0])[: controls.top_k or None]
    weights = [math.exp((log_prob - ranked[0][0]) / controls.temperature) for log_prob, _ in ranked]
    total, before, kept = sum(weights), 0.0, []
    for weight in weights:
        if before / total < controls.top_p:
            kept.append(weight)
        before += weight
    reached = 0.0
    for choice, weight in zip(ranked, kept, strict=False):
        reached += weight
        if reached > uniform * sum(kept):
            return choice
    return ranked[len(kept) - 1]


def _coverage_penalty(ids: list[int], controls: SearchControls, inputs: OracleInputs) -> float:
    """Of a finished hypothesis, PAD in front."""
    if controls.coverage_penalty == 0:
        return 0.0
    assert inputs.attention is not None
    looks = inputs.attention([ids[:length] for length in range(1, len(ids))])
    received = [sum(look[i] for look in looks) for i in range(len(looks[0]))]
    return controls.coverage_penalty * sum(math.log(min(max(total, 1e-6), 1.0)) for total in received)


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
