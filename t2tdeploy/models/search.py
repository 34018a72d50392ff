"""Beam search on tensors, in steps that evaluation runs in a Python loop and export puts into an ONNX Loop.

The semantics are those of models/oracle.py, but for exact ties: ONNX's TopK takes the lower index as the oracle does,
torch.topk takes any. K = beam; all tensors have one row per sentence; a sentence that is decided has no probability
left, so nothing of it changes and its result does not depend on the batch. Padding of sequences is PAD, of scores -inf.

A step writes no hypotheses: it records what each beam chose and which beam it came from, and models/backtrace.py
follows that back when the search has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from t2tdeploy.errors import OperationalError, RequestError
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.models.controls import (
    NEVER,
    Controls,
    Limits,
    best,
    constrain,
    coverage,
    ends_ngram_again,
    length_penalty,
    sample,
    sequences,
)
from t2tdeploy.models.model import Model, defining_class


class BeamState(NamedTuple):
    """What the search carries from step to step, besides the model's own state.

    An end is where a finished hypothesis ended: step * beam + the beam that it ended; -1: none.
    """

    step: Tensor  # [] int64, positions decoded so far
    tokens: Tensor  # [batch, beam] int64, last id of every alive sequence
    alive_scores: Tensor  # [batch, beam] raw log-probabilities, best first
    finished_scores: Tensor  # [batch, beam] length-normalized, best first
    finished_log_probs: Tensor  # [batch, beam] raw
    finished_ends: Tensor  # [batch, beam] int64
    ended: Tensor  # [batch] float32, hypotheses that have ended, of those that count for early stopping
    ancestors: Tensor  # [batch, beam, history] bool, which of all that was decoded each alive sequence consists of
    history_tokens: Tensor  # [batch, history] int64
    history_attention: Tensor  # [batch, history, source_length], that chose the id behind each of them


class StepRecord(NamedTuple):
    """What of a step the backtrace needs; all [batch, beam], of the sequences alive after it."""

    tokens: Tensor  # int64
    parents: Tensor  # int64, the beam that each continues
    scores: Tensor  # raw log-probabilities


class Candidates(NamedTuple):
    """The best continuations of every sentence, best first."""

    scores: Tensor  # [batch, width] raw log-probabilities
    tokens: Tensor  # [batch, width]
    beams: Tensor  # [batch, width], the alive sequence that each continues


def initial_state(batch: int, beam: int, source_length: int, device: torch.device, *, sampling: bool) -> BeamState:
    """Beam 0 alive with probability 1, nothing finished. With sampling all beams are alive."""
    scores = torch.full((batch, beam), NEVER, device=device)
    first = torch.arange(beam, device=device) == 0
    alive = torch.zeros_like(scores) if sampling else torch.where(first, 0.0, scores)
    ends = torch.full((batch, beam), -1, dtype=torch.int64, device=device)
    return BeamState(
        step=torch.zeros((), dtype=torch.int64, device=device),
        tokens=torch.full_like(ends, PAD_ID),
        alive_scores=alive,
        finished_scores=scores,
        finished_log_probs=scores,
        finished_ends=ends,
        ended=torch.zeros(batch, device=device),
        ancestors=torch.zeros(batch, beam, 0, dtype=torch.bool, device=device),
        history_tokens=ends[:, :0],
        history_attention=torch.zeros(batch, 0, source_length, device=device),
    )


def width(beam: int) -> int:
    """Continuations to look at: 2K, of which at most K end; the best alone if there is one beam."""
    return 2 * beam - 1 // beam


def best_ids(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """The best ids of every beam, log_probs [batch, beam, vocab] -> scores and ids [batch, beam, width]."""
    top, ids = torch.topk(log_probs, width(log_probs.size(1)), dim=-1)
    return top, ids


def sampled_ids(log_probs: Tensor, step: Tensor, controls: Controls) -> tuple[Tensor, Tensor]:
    """As `best_ids`; the one sample of every beam comes first and has -inf behind it."""
    score, token = sample(log_probs, step, controls)
    others = (0, width(log_probs.size(1)) - 1)
    return F.pad(score.unsqueeze(2), others, value=NEVER), F.pad(token.unsqueeze(2), others, value=PAD_ID)


class Choice(NamedTuple):
    """The best ids of every beam; `width` is that of the function."""

    scores: Tensor  # [batch, beam, width] log-probabilities
    ids: Tensor  # [batch, beam, width]
    penalties: Tensor  # [batch, beam], on the final score of what ends at this step


def banned_ids(log_probs: Tensor, ancestors: Tensor, history_tokens: Tensor, size: Tensor) -> Tensor:
    """[batch, beam, vocab] bool: what would repeat an n-gram of `size` [] ids."""
    return ends_ngram_again(sequences(ancestors, history_tokens), size, log_probs.size(2))


def controlled(
    log_probs: Tensor, banned: Tensor, state: BeamState, source_ids: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """Log-probabilities that `controls` leave [batch, beam, vocab]; the penalties of a Choice."""
    allowed = constrain(log_probs, sequences(state.ancestors, state.history_tokens), banned, state.step, controls)
    covered = coverage(state.ancestors, state.history_attention, source_ids != PAD_ID)
    return allowed, controls.coverage_penalty * covered


def choose(log_probs: Tensor, state: BeamState, source_ids: Tensor, controls: Controls, constrained: Tensor) -> Choice:
    """The ids to go on with; export makes an If of each `if`.

    Args:
        log_probs: [batch, beam, vocab]
        state: with this step in its ancestors and history.
        source_ids: [batch, source_length]
        constrained: [] bool, whether this step has to look at the controls; see `Limits`.
    """
    if not constrained:
        return Choice(*best_ids(log_probs), torch.zeros_like(state.alive_scores))
    banned = torch.zeros_like(log_probs, dtype=torch.bool)
    if controls.no_repeat_ngram_size > 0:
        banned = banned_ids(log_probs, state.ancestors, state.history_tokens, controls.no_repeat_ngram_size)
    allowed, penalties = controlled(log_probs, banned, state, source_ids, controls)
    if controls.temperature > 0:
        return Choice(*sampled_ids(allowed, state.step, controls), penalties)
    return Choice(*best_ids(allowed), penalties)


def select_candidates(choice: Choice, alive_scores: Tensor) -> Candidates:
    """The best of all: the best of every beam hold them."""
    count = choice.scores.size(2)
    scores, index = best((choice.scores + alive_scores.unsqueeze(-1)).flatten(1), count)
    beams = torch.div(index, count, rounding_mode="trunc")
    return Candidates(scores, torch.gather(choice.ids.flatten(1), 1, index), beams)


def next_alive(candidates: Candidates, beam: int) -> StepRecord:
    """The best K candidates that do not end."""
    open_scores = candidates.scores.masked_fill(candidates.tokens == EOS_ID, NEVER)
    scores, index = best(open_scores, beam)
    return StepRecord(torch.gather(candidates.tokens, 1, index), torch.gather(candidates.beams, 1, index), scores)


def next_finished(state: BeamState, candidates: Candidates, normalized: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best K of those finished before and the candidates that end: scores, log-probabilities, ends."""
    beam = state.finished_scores.size(1)
    ended = normalized.masked_fill(candidates.tokens != EOS_ID, NEVER)
    scores, index = best(torch.cat([state.finished_scores, ended], dim=1), beam)
    log_probs = torch.cat([state.finished_log_probs, candidates.scores], dim=1)
    ends = torch.cat([state.finished_ends, candidates.beams + state.step * beam], dim=1)
    return scores, torch.gather(log_probs, 1, index), torch.gather(ends, 1, index)


def ended_now(candidates: Candidates, beam: int) -> Tensor:
    """[batch]: how many of the best K candidates end."""
    ends = (candidates.tokens[:, :beam] == EOS_ID) & (candidates.scores[:, :beam] > NEVER)
    return ends.to(torch.float32).sum(1)


def rows_decided(
    alive_scores: Tensor, finished_scores: Tensor, ended: Tensor, step: Tensor, max_length: Tensor, limits: Limits
) -> Tensor:
    """[batch]: nothing alive can still become one of the hypotheses asked for, or enough have ended, or the row has
    reached its length."""
    best_possible = alive_scores[:, 0] / limits.longest_penalty
    last_asked = torch.index_select(finished_scores, 1, limits.last_asked).squeeze(1)
    beaten = (best_possible <= last_asked) & (last_asked > NEVER)
    return beaten | (ended >= limits.enough) | (step >= max_length)


def each_itself(batch: int, beam: int, device: torch.device) -> Tensor:
    """[batch, beam, beam] bool: of the positions that a step adds, each sequence has its own."""
    index = torch.arange(beam, device=device)
    return (index.unsqueeze(1) == index).expand(batch, beam, beam)


def look(
    model: Model, state: BeamState, itself: Tensor, memory: Sequence[Tensor], model_state: Sequence[Tensor]
) -> tuple[Tensor, BeamState, tuple[Tensor, ...]]:
    """The model's step.

    Args:
        itself: see `each_itself`; the same at every step.

    Returns:
        log-probabilities [batch, beam, vocab], the state with this step in its ancestors and history, the model's next
        state, its rows not yet reordered.
    """
    ancestors = torch.cat([state.ancestors, itself], dim=2)
    logits, attention, model_state = model.decode_step(state.tokens, state.step, memory, model_state, ancestors)
    grown = state._replace(
        ancestors=ancestors,
        history_tokens=torch.cat([state.history_tokens, state.tokens], dim=1),
        history_attention=torch.cat([state.history_attention, attention], dim=1),
    )
    return torch.log_softmax(logits.float(), dim=-1), grown, model_state


def update(
    state: BeamState, choice: Choice, max_length: Tensor, alpha: Tensor, limits: Limits
) -> tuple[Tensor, StepRecord, BeamState]:
    """The beams after a step.

    Args:
        state: with this step in its ancestors and history.

    Returns:
        whether every row is decided [], what the step chose, and the next state.
    """
    candidates = select_candidates(choice, state.alive_scores)
    record = next_alive(candidates, state.alive_scores.size(1))
    step = state.step + 1
    normalized = candidates.scores / length_penalty(step, alpha)
    normalized = normalized + torch.gather(choice.penalties, 1, candidates.beams)
    scores, log_probs, ends = next_finished(state, candidates, normalized)
    ended = state.ended + ended_now(candidates, state.alive_scores.size(1))
    decided = rows_decided(record.scores, scores, ended, step, max_length, limits)
    beams = record.parents.unsqueeze(-1).expand(-1, -1, state.ancestors.size(2))
    after = state._replace(
        step=step,
        tokens=record.tokens,
        alive_scores=record.scores.masked_fill(decided.unsqueeze(1), NEVER),
        finished_scores=scores,
        finished_log_probs=log_probs,
        finished_ends=ends,
        ended=ended,
        ancestors=torch.gather(state.ancestors, 1, beams),
    )
    return decided.all(), record, after


def require_beam(model: Model, beam: int) -> None:
    """
    Raises:
        RequestError: the beam is larger than half the target vocabulary.
    """
    vocab_size = model.features[model.target].vocab_size
    if 2 * beam > vocab_size:
        raise RequestError(
            "beam_size",
            f"{beam} is more than half the target vocabulary of {vocab_size}",
            help=f"choose at most {vocab_size // 2}",
        )


def follow(model: Model, model_state: Sequence[Tensor], parents: Tensor) -> tuple[Tensor, ...]:
    """The model's state after a step, that of the beams which are continued; parents [batch, beam]."""
    rows = rows_of(model)
    parts = dict(zip(model.state_axes(), model_state, strict=True))
    moved = reordered([parts[name] for name in rows], parents)
    return tuple({**parts, **dict(zip(rows, moved, strict=True))}.values())


def reordered(rows: Sequence[Tensor], parents: Tensor) -> tuple[Tensor, ...]:
    """The model's state [batch * beam, …] of the beams that are continued; parents [batch, beam]."""
    batch, beam = parents.shape
    index = (parents + torch.arange(batch, device=parents.device).unsqueeze(1) * beam).flatten()
    return tuple(torch.index_select(tensor, 0, index) for tensor in rows)


def past_of(model: Model) -> dict[str, str]:
    """The parts of the model's state of which `decode_step` may be given the past apart: name -> name of the past."""
    if not vars(defining_class(type(model), "decode_step")).get("takes_past", False):
        return {}
    return {name: f"past_{name}" for name, axes in model.state_axes().items() if "history" in axes}


def rows_of(model: Model) -> tuple[str, ...]:
    """Names of the parts of the model's state that belong to one beam each; the others keep all beams' history.

    Raises:
        OperationalError: a part has another first axis, so that it would not follow the beams.
    """
    for name, axes in model.state_axes().items():
        if axes[:1] not in (("rows",), ("batch",)):
            raise OperationalError(
                f"{type(model).__name__}: {name} has the axes {axes}; the first must be 'rows', if it belongs to a "
                "beam, or 'batch'",
                help="move that axis to the front: make [rows, layers, size] of an RNN's [layers, rows, size]",
            )
    return tuple(name for name, axes in model.state_axes().items() if axes[0] == "rows")
