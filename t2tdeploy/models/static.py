"""The search with tensors that keep their sizes, for runtimes whose loops cannot carry what grows, as TensorRT's.

Everything is done by the functions of models/search.py. They put the newest position behind those before; here the
state has as many positions as a search may have steps, from the start, and with every step the oldest one falls out.
What falls out was never written: a position that no step has written yet is nobody's ancestor, so it changes nothing.
Hence a model needs nothing for it but a state that either keeps all that was decoded (axis `history`) or has a size of
its own.

What a request may choose elsewhere is fixed here, and only what is asked becomes part of the graph.

K = beam, steps = the most that a search may have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.errors import OperationalError, RequestError
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.models.controls import (
    LOWEST,
    Limits,
    among,
    coverage,
    forced,
    length_penalty,
    repeats_ngram,
    sequences,
)
from t2tdeploy.models.model import Model
from t2tdeploy.models.search import (
    BeamState,
    Choice,
    StepRecord,
    best_ids,
    each_itself,
    follow,
    initial_state,
    look,
    require_beam,
    update,
)


@dataclass(frozen=True)
class StaticSearch:
    """All that a search does, settled before it is exported.

    Args:
        beam_size: hypotheses kept alive; at most half the target vocabulary.
        alpha: length penalty ((5 + n) / 6)^alpha.
        num_hypotheses: how many are returned, at most `beam_size`.
        extra_length: a target may have as many tokens as the padded source, and these.
        controls: further wishes; no sampling.
        min_length: tokens of the shortest target, EOS included.
        prefix: ids that every target starts with.

    Raises:
        RequestError: num_hypotheses is more than beam_size, extra_length less than 1, or sampling is asked for.
    """

    beam_size: int
    alpha: float
    num_hypotheses: int
    extra_length: int
    controls: SearchControls = NO_CONTROLS
    min_length: int = 0
    prefix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.num_hypotheses <= self.beam_size:
            raise RequestError(
                "num_hypotheses",
                f"{self.num_hypotheses} is not between 1 and the beam_size of {self.beam_size}",
                help=f"choose at most {self.beam_size}",
            )
        if self.extra_length < 1:
            raise RequestError("extra_length", f"{self.extra_length} is less than 1", help="50 is usual")
        if self.controls.temperature > 0:
            raise RequestError(
                "temperature",
                f"{self.controls.temperature:g}: a search of fixed sizes does not sample",
                help="leave temperature at 0, or use the variant for CPUs or CUDA",
            )

    @property
    def constrained(self) -> bool:
        """Whether steps have to look at what was decoded, beyond the beam's own scores."""
        asked = self.controls
        wishes = (asked.suppressed, asked.no_repeat_ngram_size, asked.coverage_penalty, self.prefix)
        return asked.repetition_penalty != 1 or self.min_length > 1 or any(wishes)


class StaticState(NamedTuple):
    """What the search carries from step to step. No tensor's shape changes."""

    beam: BeamState  # history = steps * beam
    records: StepRecord  # [batch, steps, beam] each, the newest last
    model: tuple[Tensor, ...]  # history = steps * beam


def require_static(model: Model, search: StaticSearch) -> None:
    """Checks that `model` can be searched so.

    Raises:
        OperationalError: its state grows by a position a step, and nothing hides the positions that are not yet there.
        RequestError: the beam is larger than half the target vocabulary, or an id is not in it.
    """
    for name, axes in model.state_axes().items():
        if "target_length" in axes:
            raise OperationalError(
                f"{type(model).__name__}: {name} has the axis target_length, which grows with every step; TensorRT "
                "needs a decoding state of fixed size",
                help="give the model a decode_step that keeps its state along the axis history, as Transformer does",
            )
    require_beam(model, search.beam_size)
    vocab_size = model.features[model.target].vocab_size
    for field, ids in (("suppressed", search.controls.suppressed), ("prefix", search.prefix)):
        for unknown in (token for token in ids if not 0 <= token < vocab_size):
            raise RequestError(field, f"{unknown} is not an id of the target vocabulary, 0 to {vocab_size - 1}")


def static_start(model: Model, source_ids: Tensor, search: StaticSearch) -> StaticState:
    """Before the first step; source_ids [batch, source_length]."""
    (batch, source_length), beam, device = source_ids.shape, search.beam_size, source_ids.device
    steps = source_length + search.extra_length
    start = initial_state(batch, beam, source_length, device, sampling=False)
    return StaticState(
        beam=start._replace(
            ancestors=torch.zeros(batch, beam, steps * beam, dtype=torch.bool, device=device),
            history_tokens=torch.zeros(batch, steps * beam, dtype=torch.int64, device=device),
            history_attention=torch.zeros(batch, steps * beam, source_length, device=device),
        ),
        records=StepRecord(
            tokens=torch.zeros(batch, steps, beam, dtype=torch.int64, device=device),
            parents=torch.zeros(batch, steps, beam, dtype=torch.int64, device=device),
            scores=torch.zeros(batch, steps, beam, device=device),
        ),
        model=tuple(
            _with_history(tensor, axes, steps * beam)
            for tensor, axes in zip(model.initial_state(batch, beam, device), model.state_axes().values(), strict=True)
        ),
    )


def _with_history(start: Tensor, axes: Sequence[str | int], history: int) -> Tensor:
    """A part of the model's first state, all zeros, as long as it may become."""
    shape = [history if axis == "history" else size for axis, size in zip(axes, start.shape, strict=True)]
    return torch.zeros(shape, dtype=start.dtype, device=start.device)


def static_limits(search: StaticSearch, max_length: Tensor) -> Limits:
    """As models/controls.py: limits. Constants are made by torch.full: the exporter decomposes torch.tensor's."""
    device = max_length.device
    return Limits(
        always=torch.full((), search.constrained, device=device),
        before=torch.full((), 0, device=device),
        longest_penalty=length_penalty(max_length, torch.full((), search.alpha, device=device)),
        last_asked=torch.full((1,), search.num_hypotheses - 1, device=device),
        enough=torch.full((), float(search.controls.enough(search.beam_size, search.num_hypotheses)), device=device),
    )


def static_step(
    model: Model,
    state: StaticState,
    memory: Sequence[Tensor],
    source_ids: Tensor,
    max_length: Tensor,
    search: StaticSearch,
) -> tuple[Tensor, StaticState]:
    """One step. After all rows are decided, a step more changes nothing that the result is made of.

    Args:
        memory: what the model's `encode` returned.
        source_ids: [batch, source_length]
        max_length: [batch] int64, at most `steps`.

    Returns:
        whether every row is decided [], and the next state.
    """
    axes = model.state_axes()
    kept = [_drop(*part, search.beam_size) for part in zip(state.model, axes.values(), strict=True)]
    itself = each_itself(source_ids.size(0), search.beam_size, source_ids.device)
    log_probs, now, grown = look(model, _without_oldest(state.beam), itself, memory, kept)
    choice = _choose(log_probs, now, source_ids, search)
    found = static_limits(search, max_length)
    alpha = torch.full((), search.alpha, device=max_length.device)
    all_decided, record, after = update(now, choice, max_length, alpha, found)
    return all_decided, StaticState(
        beam=after,
        records=StepRecord(
            *(torch.cat([old[:, 1:], new.unsqueeze(1)], dim=1) for old, new in zip(state.records, record, strict=True))
        ),
        model=follow(model, grown, record.parents),
    )


def _without_oldest(state: BeamState) -> BeamState:
    """Makes room for the position that `look` puts behind the others."""
    beam = state.tokens.size(1)
    return state._replace(
        ancestors=state.ancestors[:, :, beam:],
        history_tokens=state.history_tokens[:, beam:],
        history_attention=state.history_attention[:, beam:],
    )


def _drop(tensor: Tensor, axes: Sequence[str | int], beam: int) -> Tensor:
    """The same of a part of the model's state."""
    if "history" not in axes:
        return tensor
    axis = axes.index("history")
    return tensor.narrow(axis, beam, tensor.size(axis) - beam)


def _choose(log_probs: Tensor, state: BeamState, source_ids: Tensor, search: StaticSearch) -> Choice:
    """As models/search.py: choose"""
    no_penalties = torch.zeros_like(state.alive_scores)
    if not search.constrained:
        return Choice(*best_ids(log_probs), no_penalties)
    allowed = _constrain(log_probs, state, search)
    if search.controls.coverage_penalty == 0:
        return Choice(*best_ids(allowed), no_penalties)
    covered = coverage(state.ancestors, state.history_attention, source_ids != PAD_ID)
    return Choice(*best_ids(allowed), search.controls.coverage_penalty * covered)


def _constrain(log_probs: Tensor, state: BeamState, search: StaticSearch) -> Tensor:
    """As models/controls.py: constrain, of what is asked alone."""
    controls, vocab_size, device = search.controls, log_probs.size(2), log_probs.device
    ids = sequences(state.ancestors, state.history_tokens)  # [batch, beam, steps - 1], the newest last
    positions = torch.arange(ids.size(2), device=device)
    first = ids.size(2) - state.step  # those before it are not written yet
    words = torch.arange(vocab_size, device=device)
    allowed = log_probs
    if controls.repetition_penalty != 1:
        repeated = among(ids, (positions >= first).expand_as(ids), vocab_size)
        allowed = torch.where(repeated, allowed * controls.repetition_penalty, allowed)
    if (size := controls.no_repeat_ngram_size) > 0:
        whole = positions >= first + size - 1
        ends = repeats_ngram(ids, torch.full((), size, device=device)) & whole
        allowed = torch.where(among(ids, ends, vocab_size), LOWEST, allowed)
    if controls.suppressed:
        suppressed = torch.tensor(controls.suppressed, device=device)
        allowed = allowed.masked_fill((words.unsqueeze(1) == suppressed).any(1), LOWEST)
    if search.min_length > 1:
        too_short = state.step + 1 < search.min_length
        allowed = torch.where(too_short & (words == EOS_ID), LOWEST, allowed)
    if search.prefix:
        wanted = forced(state.step, torch.tensor([search.prefix], device=device))[:, None, None]
        given = torch.where(words == wanted, log_probs, LOWEST)
        allowed = torch.where(wanted == PAD_ID, allowed, given)
    return allowed


def in_order(state: StaticState) -> tuple[StepRecord, Tensor]:
    """What the backtrace reads, as the growing layout has it, with steps that were not taken behind.

    Returns:
        records [steps, batch, beam] and attention [batch, history, source_length].
    """
    batch, steps, beam = state.records.tokens.shape
    positions = torch.arange(steps, device=state.beam.step.device)
    index = torch.clamp(positions + steps - state.beam.step, max=steps - 1)
    records = StepRecord(*(torch.index_select(part, 1, index).transpose(0, 1) for part in state.records))
    attention = state.beam.history_attention.view(batch, steps, beam, -1)
    return records, torch.index_select(attention, 1, index).flatten(1, 2)
