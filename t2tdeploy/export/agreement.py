"""How close a variant of a bundle is to its float32 graph, how fast both are, and whether that is close enough."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.export.tensorrt_variant import Build
from t2tdeploy.progress import Reporter
from t2tdeploy.runtime import GraphSession
from t2tdeploy.sentences import pad_rows

BATCH = 16  # sentences, of similar length
TIMED_BATCHES = 8  # spread over the lengths
ROUNDS = 5  # the median of which is told

MIN_AGREEMENT = 0.9
"""Guards against a variant that translates otherwise, where no references can tell: near ties between two good
translations cost some agreement and no BLEU, broken ranges cost most of it."""
MAX_BLEU_LOSS = 0.2
"""Less than averaging checkpoints brings; on a thousand sentences, a smaller loss is hard to tell from chance."""

Ids = tuple[int, ...]


class Answer(NamedTuple):
    """The best hypothesis of a source: ids with EOS, and its score."""

    ids: Ids
    score: float


@dataclass(frozen=True)
class Agreement:
    """How the answers of two graphs compare.

    Args:
        identical: share of sentences with the same ids.
        token_agreement: share of tokens that both have, in the same order: the length of the longest common
            subsequences over that of the longer hypotheses, so that one word more does not make all behind it differ.
        score_difference_median, score_difference_largest: over the identical ones; None if there are none.
        without_score: sentences whose score is no finite number.
    """

    sentences: int
    identical: float
    token_agreement: float
    score_difference_median: float | None
    score_difference_largest: float | None
    without_score: int


@dataclass(frozen=True)
class Quality:
    """BLEU of both graphs on the same references."""

    bleu: float
    reference_bleu: float
    bleu_signature: str


@dataclass(frozen=True)
class Speed:
    """Target tokens per second of both graphs, medians over rounds in turns, in batches of `batch_size`.

    Args:
        speedup: the median of the rounds' ratios.
        cpu: the machine's, in its own words.
    """

    tokens_per_second: float
    reference_tokens_per_second: float
    speedup: float
    batch_size: int
    threads: int
    cpu: str


@dataclass(frozen=True)
class Gate:
    """The least that a variant must reach.

    Args:
        min_agreement: of `Agreement.token_agreement`.
        max_bleu_loss: BLEU that may be lost where there are references.
    """

    min_agreement: float = MIN_AGREEMENT
    max_bleu_loss: float = MAX_BLEU_LOSS

    def failures(self, agreement: Agreement, quality: Quality | None) -> list[str]:
        """What is not reached, in words; none if the variant passes."""
        found = []
        if agreement.without_score:
            found.append(f"{agreement.without_score} sentences have a score that is no number")
        if agreement.token_agreement < self.min_agreement:
            found.append(f"token agreement {agreement.token_agreement:.4f} is below {self.min_agreement:g}")
        if quality is not None and (loss := quality.reference_bleu - quality.bleu) > self.max_bleu_loss:
            found.append(
                f"BLEU {quality.bleu:.2f} is {loss:.2f} below the {quality.reference_bleu:.2f} of float32, more than "
                f"{self.max_bleu_loss:g}"
            )
        return found


@dataclass(frozen=True)
class Measured:
    """What the manifest says of a variant, as it was compared with the variant `reference`.

    Args:
        compared_on, calibrated_on: where the sentences come from; None: the variant needs no calibration.
        aligned_on: the same of those that its shortlist was made of.
        run_on: the kind of processor that ran the variant, which may be another than it is made for.
        speed: None if that is so.
        bytes, reference_bytes: of the files.
        build: of a variant for TensorRT: whether an engine was built.
        failures: what of the gate it did not reach.
        forced: it was written all the same.
    """

    reference: str
    compared_on: str
    calibrated_on: str | None
    run_on: str
    agreement: Agreement
    quality: Quality | None
    speed: Speed | None
    bytes: int
    reference_bytes: int
    gate: Gate
    build: Build | None = None
    failures: list[str] = field(default_factory=list)
    forced: bool = False
    aligned_on: str | None = None


def batches_of(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of `rows` in batches of similar length."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def answers_of(
    session: GraphSession, rows: Sequence[Sequence[int]], decode: DecodeDefaults, *, name: str, reporter: Reporter
) -> list[Answer]:
    """The best hypothesis of every source (ids with EOS), decoded as the bundle does.

    Args:
        name: what the progress calls the graph.
    """
    found: dict[int, Answer] = {}
    with reporter.task(f"translating with {name}", total=len(rows), unit="sentences") as task:
        for indices in batches_of(rows):
            found |= zip(indices, _search(session, [rows[index] for index in indices], decode), strict=True)
            task.advance(len(indices))
    return [found[index] for index in range(len(rows))]


def _search(session: GraphSession, rows: Sequence[Sequence[int]], decode: DecodeDefaults) -> list[Answer]:
    limits = np.array([len(ids) + decode.extra_length for ids in rows], dtype=np.int64)
    result = session.search(
        pad_rows(rows),
        limits,
        beam_size=decode.beam_size,
        alpha=decode.alpha,
        num_hypotheses=1,
        controls=decode.controls,
    )
    return [
        Answer(tuple(result.target_ids[row, 0, : result.lengths[row, 0]].tolist()), float(result.scores[row, 0]))
        for row in range(len(rows))
    ]


def compare(found: Sequence[Answer], expected: Sequence[Answer]) -> Agreement:
    """How `found` agrees with `expected`, sentence by sentence; there must be one."""
    pairs = list(zip(found, expected, strict=True))
    same = [(one.score, other.score) for one, other in pairs if one.ids == other.ids]
    apart = [abs(one - other) for one, other in same if math.isfinite(one) and math.isfinite(other)]
    longer = sum(max(len(one.ids), len(other.ids)) for one, other in pairs)
    return Agreement(
        sentences=len(pairs),
        identical=len(same) / len(pairs),
        token_agreement=sum(common_tokens(one.ids, other.ids) for one, other in pairs) / longer,
        score_difference_median=statistics.median(apart) if apart else None,
        score_difference_largest=max(apart, default=None),
        without_score=sum(not math.isfinite(one.score) for one in found),
    )


def common_tokens(one: Ids, other: Ids) -> int:
    """Length of the longest common subsequence (Wagner and Fischer 1974)."""
    best = [0] * (len(other) + 1)  # best[j]: of what is read of `one`, and other[:j]
    for token in one:
        diagonal = 0
        for j, candidate in enumerate(other, start=1):
            diagonal, best[j] = best[j], diagonal + 1 if token == candidate else max(best[j], best[j - 1])
    return best[-1]


def rates(
    sessions: Mapping[str, GraphSession],
    rows: Sequence[Sequence[int]],
    decode: DecodeDefaults,
    *,
    reporter: Reporter,
) -> dict[str, list[float]]:
    """Target tokens per second of each graph, round by round. They take turns, and each round begins with another."""
    batches = batches_of(rows)
    step = max(1, len(batches) / TIMED_BATCHES)
    timed = [batches[int(place * step)] for place in range(min(TIMED_BATCHES, len(batches)))]
    found: dict[str, list[float]] = {name: [] for name in sessions}
    names = list(sessions)
    for session in sessions.values():
        _search(session, [rows[index] for index in timed[0]], decode)  # the largest: memory is taken now
    with reporter.task("timing", total=ROUNDS * len(names), unit="rounds") as task:
        for number in range(ROUNDS):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                begun, tokens = time.perf_counter(), 0
                for indices in timed:
                    tokens += sum(
                        len(one.ids) for one in _search(sessions[name], [rows[index] for index in indices], decode)
                    )
                found[name].append(tokens / (time.perf_counter() - begun))
                task.advance()
    return found


def speed_of(own: Sequence[float], reference: Sequence[float], *, batch_size: int, threads: int, cpu: str) -> Speed:
    """Sums up the rounds of `rates`."""
    return Speed(
        tokens_per_second=round(statistics.median(own), 1),
        reference_tokens_per_second=round(statistics.median(reference), 1),
        speedup=round(statistics.median(one / other for one, other in zip(own, reference, strict=True)), 3),
        batch_size=batch_size,
        threads=threads,
        cpu=cpu,
    )
