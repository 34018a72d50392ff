"""From what a search recorded to its hypotheses, last step first.

K = beam, H = hypotheses asked for, steps = target_length
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.models.controls import NEVER
from t2tdeploy.models.search import StepRecord


class Ends(NamedTuple):
    """Where the hypotheses of every sentence end, best first; all [batch, hypotheses] but `finished`.

    A row with `finished` False reached no EOS within its length: its alive sequences are given with their raw
    log-probabilities. Where a row has fewer hypotheses than asked, the rest have score -inf and length 0.
    """

    beams: Tensor  # int64, the beam that each is before its EOS
    steps: Tensor  # int64, ids before the EOS; -1: no hypothesis
    scores: Tensor  # float32
    log_probs: Tensor  # float32, raw, with the EOS
    lengths: Tensor  # int64, EOS included
    finished: Tensor  # [batch] bool


class SearchResult(NamedTuple):
    """Best hypotheses of every sentence, best first.

    Where `finished` is False the row reached no EOS within its length; see `Ends`.
    """

    target_ids: Tensor  # [batch, hypotheses, target_length] int64: EOS included, then PAD
    scores: Tensor  # [batch, hypotheses] float32
    lengths: Tensor  # [batch, hypotheses] int64: EOS included
    finished: Tensor  # [batch] bool
    token_scores: Tensor  # [batch, hypotheses, target_length] float32: log-probability of each id, 0 behind EOS
    attention: Tensor  # [batch, hypotheses, target_length, source_length]: what chose each id, 0 behind EOS


def find_ends(
    finished_scores: Tensor,
    finished_log_probs: Tensor,
    finished_ends: Tensor,
    step_scores: Tensor,
    max_length: Tensor,
) -> Ends:
    """The K hypotheses of a search that has ended.

    Args:
        finished_scores, finished_log_probs, finished_ends: [batch, beam], see `BeamState`.
        step_scores: [steps, batch, beam], see `StepRecord`.
    """
    beam = finished_scores.size(1)
    last = torch.clamp(max_length, max=step_scores.size(0)) - 1
    rows = torch.arange(max_length.size(0), device=max_length.device)
    alive = step_scores[last, rows]
    finished = finished_scores[:, 0] > NEVER
    choose = finished.unsqueeze(1)
    scores = torch.where(choose, finished_scores, alive)
    some = scores > NEVER
    ended = torch.div(finished_ends, beam, rounding_mode="trunc")
    beams = torch.where(choose, (finished_ends - ended * beam).clamp(min=0), torch.arange(beam, device=last.device))
    steps = torch.where(some, torch.where(choose, ended, max_length.unsqueeze(1)), -1)
    return Ends(
        beams=beams,
        steps=steps,
        scores=scores,
        log_probs=torch.where(choose, finished_log_probs, alive),
        lengths=torch.where(some, steps + choose, 0),
        finished=finished,
    )


def trace_step(
    beams: Tensor, step: Tensor, record: StepRecord, attention: Tensor, ends: Ends
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step back.

    Args:
        beams: [batch, hypotheses], which beam each hypothesis is after this step.
        step: [] int64
        record: of this step.
        attention: [batch, beam, source_length], what the beams before this step attended to.

    Returns:
        `beams` before this step; then of this step: ids [batch, hypotheses], log-probability of the hypotheses up to
        it, attention [batch, hypotheses, source_length].
    """
    inside = step < ends.steps
    at_end = (step == ends.steps) & ends.finished.unsqueeze(1)
    ids = torch.where(inside, torch.gather(record.tokens, 1, beams), torch.where(at_end, EOS_ID, PAD_ID))
    log_probs = torch.where(inside, torch.gather(record.scores, 1, beams), ends.log_probs)
    parents = torch.where(inside, torch.gather(record.parents, 1, beams), beams)
    index = parents.unsqueeze(2).expand(-1, -1, attention.size(2))
    looked = torch.gather(attention, 1, index) * (inside | at_end).unsqueeze(2)
    return parents, ids, log_probs, looked


def to_result(ends: Ends, ids: Tensor, log_probs: Tensor, attention: Tensor) -> SearchResult:
    """The steps' [steps, batch, hypotheses, …], first step first, as a result."""
    before = torch.cat([torch.zeros_like(log_probs[:1]), log_probs[:-1]])
    positions = torch.arange(ids.size(0), device=ids.device).view(-1, 1, 1)
    token_scores = torch.where(positions < ends.lengths, log_probs - before, 0.0)
    return SearchResult(
        target_ids=ids.permute(1, 2, 0),
        scores=ends.scores,
        lengths=ends.lengths,
        finished=ends.finished,
        token_scores=token_scores.permute(1, 2, 0),
        attention=attention.permute(1, 2, 0, 3),
    )
