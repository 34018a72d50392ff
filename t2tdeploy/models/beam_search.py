"""Beam search with the torch model, for evaluation: the same steps that export puts into one graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from t2tdeploy.models.backtrace import Ends, SearchResult, find_ends, to_result, trace_step
from t2tdeploy.models.controls import Controls, limits, neutral
from t2tdeploy.models.model import Model
from t2tdeploy.models.search import (
    BeamState,
    StepRecord,
    choose,
    each_itself,
    follow,
    initial_state,
    look,
    require_beam,
    update,
)


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Args:
        beam_size: hypotheses kept alive; at most half the vocabulary.
        alpha: length penalty ((5 + n) / 6)^alpha.
        num_hypotheses: how many to return, at most `beam_size`.
        patience: of early stopping, see `SearchControls`; infinite: none.
    """

    beam_size: int = 4
    alpha: float = 0.6
    num_hypotheses: int = 1
    patience: float = math.inf


@torch.inference_mode()
def beam_search(
    model: Model, source_ids: Tensor, max_length: Tensor, options: SearchOptions, controls: Controls | None = None
) -> SearchResult:
    """Searches with the torch model; switches it to evaluation mode for the call.

    Args:
        source_ids: [batch, source_length] int64, EOS at the end, PAD behind.
        max_length: [batch] int64, longest target of every row, EOS included, at least 1.
        controls: further wishes; what is given here too is as given here.

    Raises:
        ValueError: num_hypotheses is not between 1 and beam_size.
        RequestError: the beam is larger than half the target vocabulary.
    """
    require_beam(model, options.beam_size)
    if not 1 <= options.num_hypotheses <= options.beam_size:
        raise ValueError(f"num_hypotheses = {options.num_hypotheses} is not between 1 and {options.beam_size}")
    device = source_ids.device
    given = (
        max_length,
        torch.tensor(options.alpha, device=device),
        torch.tensor(options.num_hypotheses, device=device),
    )
    controls = Controls(*given, *(controls or neutral(*given))[len(given) :])
    controls = controls._replace(patience=torch.tensor(options.patience, device=device))
    was_training = model.training
    model.eval()
    try:
        state, records = _run(model, source_ids, controls, options.beam_size)
    finally:
        model.train(was_training)
    return _follow_back(state, records, controls)


def _run(model: Model, source_ids: Tensor, controls: Controls, beam: int) -> tuple[BeamState, list[StepRecord]]:
    batch, source_length = source_ids.shape
    memory = model.encode(source_ids)
    sampling = bool(controls.temperature > 0)
    state = initial_state(batch, beam, source_length, source_ids.device, sampling=sampling)
    model_state = model.initial_state(batch, beam, source_ids.device)
    found = limits(controls, torch.tensor(beam, device=source_ids.device))
    itself = each_itself(batch, beam, source_ids.device)
    records: list[StepRecord] = []
    while True:
        log_probs, state, model_state = look(model, state, itself, memory, model_state)
        choice = choose(log_probs, state, source_ids, controls, found.always | (state.step < found.before))
        all_decided, record, state = update(state, choice, controls.max_length, controls.alpha, found)
        records.append(record)
        if bool(all_decided):
            return state, records
        model_state = follow(model, model_state, record.parents)


def _follow_back(state: BeamState, records: list[StepRecord], controls: Controls) -> SearchResult:
    scores = torch.stack([record.scores for record in records])
    ends = find_ends(state.finished_scores, state.finished_log_probs, state.finished_ends, scores, controls.max_length)
    asked = int(controls.num_hypotheses)
    ends = Ends(*(part[:, :asked] if part.dim() == 2 else part for part in ends))
    batch, beam = state.tokens.shape
    attention = state.history_attention.view(batch, len(records), beam, -1)
    beams, steps = ends.beams, []
    for i in reversed(range(len(records))):
        beams, *found = trace_step(beams, torch.tensor(i, device=beams.device), records[i], attention[:, i], ends)
        steps.append(found)
    ids, log_probs, looked = (torch.stack(parts) for parts in zip(*reversed(steps), strict=True))
    return to_result(ends, ids, log_probs, looked)
