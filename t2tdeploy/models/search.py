"""Beam search on tensors, in steps that evaluation runs in a Python loop and export puts into an ONNX Loop.

The semantics are those of models/oracle.py, but for exact ties: ONNX's TopK takes the lower index as the oracle does,
torch.topk takes any. K = beam; all tensors have one row per sentence; a sentence that is
decided is frozen, so its result does not depend on the batch. Padding of sequences is PAD, of scores -inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2tdeploy.errors import RequestError
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.models.model import Model

NEVER = float("-inf")


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Args:
        beam_size: hypotheses kept alive; at most half the vocabulary.
        alpha: length penalty ((5 + n) / 6)^alpha.
        num_hypotheses: how many to return, at most `beam_size`.
    """

    beam_size: int = 4
    alpha: float = 0.6
    num_hypotheses: int = 1


class SearchResult(NamedTuple):
    """Best hypotheses of every sentence, best first.

    A row with `finished` False reached no EOS within its length: its alive sequences are returned with their raw
    log-probabilities. Where a row has fewer finished hypotheses than asked, the rest have score -inf and length 0.
    """

    target_ids: Tensor  # [batch, hypotheses, target_length] int64: EOS included, then PAD
    scores: Tensor  # [batch, hypotheses] float32
    lengths: Tensor  # [batch, hypotheses] int64: EOS included
    finished: Tensor  # [batch] bool


class BeamState(NamedTuple):
    """What the search carries from step to step, besides the model's own state."""

    step: Tensor  # [] int64, positions decoded so far
    tokens: Tensor  # [batch, beam] int64, last id of every alive sequence
    alive_scores: Tensor  # [batch, beam] raw log-probabilities, best first
    alive_ids: Tensor  # [batch, beam, target_length]
    finished_scores: Tensor  # [batch, beam] length-normalized, best first
    finished_ids: Tensor  # [batch, beam, target_length]
    finished_lengths: Tensor  # [batch, beam]
    decided: Tensor  # [batch] bool
    ancestors: Tensor  # [batch, beam, history] bool, which of all that was decoded each alive sequence consists of


class Candidates(NamedTuple):
    """The best 2K continuations of every sentence, best first."""

    scores: Tensor  # [batch, 2 * beam] raw log-probabilities
    tokens: Tensor  # [batch, 2 * beam]
    beams: Tensor  # [batch, 2 * beam], the alive sequence that each continues


def initial_state(batch: int, beam: int, device: torch.device) -> BeamState:
    """Beam 0 alive with probability 1, nothing finished."""
    scores = torch.full((batch, beam), NEVER, device=device)
    alive = scores.clone()
    alive[:, 0] = 0.0
    ids = torch.zeros(batch, beam, 0, dtype=torch.int64, device=device)
    counts = torch.zeros(batch, beam, dtype=torch.int64, device=device)
    decided = torch.zeros(batch, dtype=torch.bool, device=device)
    step = torch.zeros((), dtype=torch.int64, device=device)
    return BeamState(step, torch.full_like(counts, PAD_ID), alive, ids, scores, ids, counts, decided, ids.bool())


def length_penalty(length: Tensor, alpha: Tensor) -> Tensor:
    """((5 + n) / 6)^alpha, Wu et al. 2016, equation 14."""
    return ((5.0 + length.to(torch.float32)) / 6.0) ** alpha


def select_candidates(logits: Tensor, alive_scores: Tensor) -> Candidates:
    """logits [batch, beam, vocab] -> the best 2K of the K·vocab continuations.

    The best 2K of every beam hold the best 2K of all, so the second TopK sees 2K words per beam.
    """
    beam = alive_scores.size(1)
    top, top_tokens = torch.topk(torch.log_softmax(logits, dim=-1), 2 * beam, dim=-1)
    scores = (top + alive_scores.unsqueeze(-1)).flatten(1)
    best, index = torch.topk(scores, 2 * beam, dim=-1)
    beams = torch.div(index, 2 * beam, rounding_mode="floor")
    return Candidates(best, torch.gather(top_tokens.flatten(1), 1, index), beams)


def extend(ids: Tensor, beams: Tensor, tokens: Tensor) -> Tensor:
    """ids [batch, beam, length] of `beams` [batch, n], `tokens` [batch, n] behind -> [batch, n, length + 1]"""
    index = beams.unsqueeze(-1).expand(-1, -1, ids.size(2))
    return torch.cat([torch.gather(ids, 1, index), tokens.unsqueeze(-1)], dim=2)


def next_alive(state: BeamState, candidates: Candidates) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best K candidates that do not end: scores, tokens, ids, and the beams they continue."""
    beam = state.alive_scores.size(1)
    open_scores = candidates.scores.masked_fill(candidates.tokens == EOS_ID, NEVER)
    scores, index = torch.topk(open_scores, beam, dim=-1)
    tokens, beams = torch.gather(candidates.tokens, 1, index), torch.gather(candidates.beams, 1, index)
    return scores, tokens, extend(state.alive_ids, beams, tokens), beams


def next_finished(state: BeamState, candidates: Candidates, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best K of those finished before and the candidates that end: scores, ids, lengths."""
    beam = state.finished_scores.size(1)
    length = state.step + 1
    normalized = candidates.scores / length_penalty(length, alpha)
    ended = normalized.masked_fill(candidates.tokens != EOS_ID, NEVER)
    scores, index = torch.topk(torch.cat([state.finished_scores, ended], dim=1), beam, dim=-1)
    before = torch.nn.functional.pad(state.finished_ids, (0, 1), value=PAD_ID)
    ids = torch.cat([before, extend(state.alive_ids, candidates.beams, candidates.tokens)], dim=1)
    lengths = torch.cat([state.finished_lengths, length.expand_as(candidates.tokens)], dim=1)
    lengths = torch.gather(lengths, 1, index).masked_fill(scores == NEVER, 0)
    return scores, torch.gather(ids, 1, index.unsqueeze(-1).expand(-1, -1, ids.size(2))), lengths


def rows_decided(
    alive_scores: Tensor, finished_scores: Tensor, step: Tensor, max_length: Tensor, alpha: Tensor, hypotheses: Tensor
) -> Tensor:
    """[batch]: nothing alive can still become one of the `hypotheses` best, or the row has reached its length."""
    best_possible = alive_scores[:, 0] / length_penalty(max_length, alpha)
    last_asked = torch.index_select(finished_scores, 1, hypotheses.reshape(1) - 1)[:, 0]
    beaten = (best_possible <= last_asked) & (last_asked > NEVER)
    return beaten | (step >= max_length)


def with_themselves(ancestors: Tensor) -> Tensor:
    """[batch, beam, history] -> [batch, beam, history + beam]: each sequence has its own newest position."""
    batch, beam, _ = ancestors.shape
    index = torch.arange(beam, device=ancestors.device)
    return torch.cat([ancestors, (index.unsqueeze(1) == index).expand(batch, beam, beam)], dim=2)


def freeze(decided: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Rows that were decided before the step keep `old`; sequences grow by a PAD."""
    if old.dim() == 3:
        old = torch.nn.functional.pad(old, (0, 1), value=PAD_ID)
    return torch.where(decided.view(-1, *(1,) * (new.dim() - 1)), old, new)


class BeamStep(nn.Module):
    """One position of the search: the model's step, then the update of the beams."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        state: BeamState,
        max_length: Tensor,
        alpha: Tensor,
        hypotheses: Tensor,
        memory: Sequence[Tensor],
        model_state: Sequence[Tensor],
    ) -> tuple[BeamState, tuple[Tensor, ...]]:
        """
        Args:
            max_length: [batch] int64, ids a row may have, EOS included.
            alpha: [] float32.
            hypotheses: [] int64, how many are asked for.
            memory, model_state: see Model.decode_step.
        """
        ancestors = with_themselves(state.ancestors)
        logits, model_state = self.model.decode_step(state.tokens, state.step, memory, model_state, ancestors)
        candidates = select_candidates(logits.float(), state.alive_scores)
        scores, tokens, ids, beams = next_alive(state, candidates)
        finished_scores, finished_ids, finished_lengths = next_finished(state, candidates, alpha)
        step, was_decided = state.step + 1, state.decided
        next_state = BeamState(
            step=step,
            tokens=tokens,
            alive_scores=freeze(was_decided, state.alive_scores, scores),
            alive_ids=freeze(was_decided, state.alive_ids, ids),
            finished_scores=freeze(was_decided, state.finished_scores, finished_scores),
            finished_ids=freeze(was_decided, state.finished_ids, finished_ids),
            finished_lengths=freeze(was_decided, state.finished_lengths, finished_lengths),
            ancestors=torch.gather(ancestors, 1, beams.unsqueeze(-1).expand(-1, -1, ancestors.size(2))),
            decided=was_decided | rows_decided(scores, finished_scores, step, max_length, alpha, hypotheses),
        )
        return next_state, self._reordered(model_state, beams)

    def _reordered(self, model_state: Sequence[Tensor], beams: Tensor) -> tuple[Tensor, ...]:
        """The state of the beams that are continued; what keeps all beams' history stays as it is."""
        batch, beam = beams.shape
        rows = (beams + torch.arange(batch, device=beams.device).unsqueeze(1) * beam).flatten()
        axes = self.model.state_axes().values()
        return tuple(
            torch.index_select(tensor, 0, rows) if names[0] == "rows" else tensor
            for tensor, names in zip(model_state, axes, strict=True)
        )


def results(state: BeamState, max_length: Tensor) -> SearchResult:
    """The K hypotheses of a search that has ended: the finished ones, or the alive ones where nothing has finished."""
    finished = state.finished_scores[:, 0] > NEVER
    choose = finished.unsqueeze(-1)
    scores = torch.where(choose, state.finished_scores, state.alive_scores)
    lengths = torch.where(choose, state.finished_lengths, max_length.unsqueeze(-1)).masked_fill(scores == NEVER, 0)
    ids = torch.where(choose.unsqueeze(-1), state.finished_ids, state.alive_ids)
    return SearchResult(ids.masked_fill((lengths == 0).unsqueeze(-1), PAD_ID), scores, lengths, finished)


@torch.inference_mode()
def beam_search(model: Model, source_ids: Tensor, max_length: Tensor, options: SearchOptions) -> SearchResult:
    """Searches with the torch model; switches it to evaluation mode for the call.

    Args:
        source_ids: [batch, source_length] int64, EOS at the end, PAD behind.
        max_length: [batch] int64, longest target of every row, EOS included, at least 1.

    Raises:
        ValueError: num_hypotheses is not between 1 and beam_size.
        RequestError: the beam is larger than half the target vocabulary.
    """
    vocab_size = model.features[model.target].vocab_size
    if 2 * options.beam_size > vocab_size:
        raise RequestError(
            "beam_size",
            f"{options.beam_size} is more than half the target vocabulary of {vocab_size}",
            help=f"choose at most {vocab_size // 2}",
        )
    if not 1 <= options.num_hypotheses <= options.beam_size:
        raise ValueError(f"num_hypotheses = {options.num_hypotheses} is not between 1 and {options.beam_size}")
    was_training = model.training
    model.eval()
    step_module, device = BeamStep(model), source_ids.device
    alpha = torch.tensor(options.alpha, device=device)
    hypotheses = torch.tensor(options.num_hypotheses, device=device)
    memory = model.encode(source_ids)
    state = initial_state(source_ids.size(0), options.beam_size, device)
    model_state = model.initial_state(source_ids.size(0), options.beam_size, device)
    while not bool(state.decided.all()):
        state, model_state = step_module(state, max_length, alpha, hypotheses, memory, model_state)
    model.train(was_training)
    ids, scores, lengths, finished = results(state, max_length)
    asked = slice(options.num_hypotheses)
    return SearchResult(ids[:, asked], scores[:, asked], lengths[:, asked], finished)
