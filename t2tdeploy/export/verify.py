"""Parity: the exported graph against the plain Python oracle, on real sentences."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.errors import ParityError
from t2tdeploy.features import PAD_ID
from t2tdeploy.models.model import Model
from t2tdeploy.models.oracle import NextLogProbs, OracleResult, oracle_search
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.runtime import GraphSession, SearchResult
from t2tdeploy.sentences import pad_rows

SCORE_TOLERANCE = 1e-4
ROUNDING = 2.0**-24
"""Of float32: what one addition may change of a sum, relatively."""
SLOW_SECONDS = 20.0
_SLOW = (
    "the oracle is a plain Python search, slow for a model that does not end its sentences, as one hardly "
    "trained: --parity-sentences 2 compares fewer"
)


@dataclass(frozen=True)
class ParityReport:
    """How the graph compares with the oracle.

    Args:
        sentences: compared.
        identical: of these, with the same ids in every hypothesis.
        largest_score_difference: over all hypotheses.
        score_tolerance: of scores, besides `ROUNDING` for each token.
        differences: what differs, in words, of every sentence that does.
    """

    sentences: int
    hypotheses: int
    beam_size: int
    alpha: float
    extra_length: int
    identical: int
    largest_score_difference: float
    score_tolerance: float = SCORE_TOLERANCE
    differences: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Same ids everywhere, and scores within the tolerance."""
        return not self.differences


def model_log_probs(model: Model, source_ids: Sequence[int]) -> NextLogProbs:
    """The model as the oracle asks it: every prefix through the full forward, no cache."""

    @torch.inference_mode()
    def next_log_probs(prefixes: list[list[int]]) -> list[list[float]]:
        targets = torch.tensor([[*prefix[1:], PAD_ID] for prefix in prefixes])  # the last is shifted out of sight
        sources = torch.tensor([list(source_ids)]).expand(len(prefixes), -1)
        logits = model({"inputs": sources, model.target: targets})[:, -1]
        rows: list[list[float]] = torch.log_softmax(logits.float(), dim=-1).tolist()
        return rows

    return next_log_probs


def verify(
    model: Model,
    session: GraphSession,
    sources: Sequence[Sequence[int]],
    *,
    beam_size: int,
    alpha: float,
    extra_length: int,
    num_hypotheses: int,
    controls: SearchControls = NO_CONTROLS,
    reporter: Reporter | None = None,
) -> ParityReport:
    """Decodes `sources` (ids with EOS) as one batch in the graph, and one by one by the oracle.

    Raises:
        ParityError: ids or scores differ; the message shows the first differences.
    """
    model.eval()
    limits = np.array([len(ids) + extra_length for ids in sources], dtype=np.int64)
    asked: dict[str, Any] = {
        "beam_size": beam_size, "alpha": alpha, "num_hypotheses": num_hypotheses, "controls": controls
    }  # fmt: skip
    found = session.search(pad_rows(sources), limits, **asked)
    differences, largest, identical = [], 0.0, 0
    reporter, begun, is_told = reporter or SilentReporter(), time.monotonic(), False
    with reporter.task("parity with the oracle", total=len(sources), unit="sentences") as task:
        for row, ids in enumerate(sources):
            expected = oracle_search(model_log_probs(model, ids), max_length=int(limits[row]), **asked)
            same, distances = _compare(found, row, expected)
            identical += same
            largest = max([largest, *distances])
            if not same or not _within_tolerance(distances, expected):
                differences.append(_describe(found, row, expected))
            task.advance()
            if not is_told and row + 1 < len(sources) and time.monotonic() - begun > SLOW_SECONDS:
                reporter.message(_SLOW)
                is_told = True
    report = ParityReport(
        sentences=len(sources),
        hypotheses=num_hypotheses,
        beam_size=beam_size,
        alpha=alpha,
        extra_length=extra_length,
        identical=identical,
        largest_score_difference=largest,
        differences=differences,
    )
    if not report.passed:
        shown = "".join(f"\n  {line}" for line in differences[:3])
        raise ParityError(
            f"the exported graph and the oracle differ: {identical} of {len(sources)} sentences identical, largest "
            f"score difference {largest:.2g} (tolerance {SCORE_TOLERANCE:g}, and of the score itself {ROUNDING:.0e} "
            f"for each token){shown}",
            help="a model of your own: compare its decode_step with its forward",
        )
    return report


def _ids(found: SearchResult, row: int, hypothesis: int) -> tuple[int, ...]:
    return tuple(found.target_ids[row, hypothesis, : found.lengths[row, hypothesis]].tolist())


def _compare(found: SearchResult, row: int, expected: OracleResult) -> tuple[bool, list[float]]:
    """Whether the ids and the flag are the same, and the differences of scores; infinite where one is no number."""
    count = int((found.lengths[row] > 0).sum())
    same = bool(found.finished[row]) == expected.finished and count == len(expected.hypotheses)
    same = same and all(_ids(found, row, i) == wanted.ids for i, wanted in enumerate(expected.hypotheses))
    pairs = zip(expected.hypotheses, found.scores[row], strict=False)
    distances = [abs(wanted.score - float(score)) for wanted, score in pairs]
    return same, [math.inf if math.isnan(distance) else distance for distance in distances]


def _within_tolerance(distances: Sequence[float], expected: OracleResult) -> bool:
    return all(
        distance <= SCORE_TOLERANCE + ROUNDING * len(wanted.ids) * abs(wanted.score)
        for distance, wanted in zip(distances, expected.hypotheses, strict=False)
    )


def _describe(found: SearchResult, row: int, expected: OracleResult) -> str:
    best = [f"{one.ids} scored {one.score:.5f}" for one in expected.hypotheses[:1]] or ["no hypothesis"]
    return f"sentence {row}: graph {_ids(found, row, 0)} scored {float(found.scores[row, 0]):.5f}, oracle {best[0]}"
