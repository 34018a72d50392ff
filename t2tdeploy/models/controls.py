"""What a request may ask of the search beyond its beam: constraints on the next token, penalties, sampling.

All are tensors, so that one graph serves all requests; a graph pays for them only in requests that use them.
Constraints forbid tokens (log-probability -inf) and leave the others' scores as they are. The definitions in plain
Python, which these are tested against, are in models/oracle.py.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2tdeploy.features import EOS_ID, PAD_ID

NEVER = float("-inf")
LOWEST = -3.0e38
"""What is sorted in the place of `NEVER`, see `best`."""
NO_COVERAGE = 1e-6
"""Attention that a source position has had at the least, so that the coverage penalty stays finite."""


class Controls(NamedTuple):
    """One request's wishes; the fields from `min_length` on can be left at `neutral`."""

    max_length: Tensor  # [batch] int64, ids a row may have, EOS included
    alpha: Tensor  # [] float32, length penalty ((5 + n) / 6)^alpha
    num_hypotheses: Tensor  # [] int64, how many are asked for
    min_length: Tensor  # [batch] int64, ids a row must have, EOS included
    prefix: Tensor  # [batch, prefix_length] int64, ids that a target starts with; PAD: free
    suppressed: Tensor  # [suppressed] int64, ids that are never chosen
    repetition_penalty: Tensor  # [] float32, on the log-probability of ids that a hypothesis has; 1: none
    no_repeat_ngram_size: Tensor  # [] int64, no n ids twice in a hypothesis; 0: off
    coverage_penalty: Tensor  # [] float32, for source positions that got little attention; 0: none
    temperature: Tensor  # [] float32, above 0: each beam is a sample of its own; 0: beam search
    top_k: Tensor  # [] int64, samples are of the k likeliest ids; 0: of all
    top_p: Tensor  # [] float32, samples are of the likeliest ids that have this probability together
    uniforms: Tensor  # [batch, beam, steps] float32 in [0, 1): the chance of every sample
    patience: Tensor  # [] float32, beam * patience hypotheses end a row; infinite: when none can be beaten


def neutral(max_length: Tensor, alpha: Tensor, num_hypotheses: Tensor) -> Controls:
    """Plain beam search."""
    device = max_length.device

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, device=device)

    return Controls(
        max_length=max_length,
        alpha=alpha,
        num_hypotheses=num_hypotheses,
        min_length=torch.zeros_like(max_length),
        prefix=torch.zeros(max_length.size(0), 0, dtype=torch.int64, device=device),
        suppressed=torch.zeros(0, dtype=torch.int64, device=device),
        repetition_penalty=scalar(1.0),
        no_repeat_ngram_size=scalar(0),
        coverage_penalty=scalar(0.0),
        temperature=scalar(0.0),
        top_k=scalar(0),
        top_p=scalar(1.0),
        uniforms=torch.zeros(max_length.size(0), 1, 0, device=device),
        patience=scalar(math.inf),
    )


class Limits(NamedTuple):
    """What follows from the controls, computed once before the first step."""

    always: Tensor  # [] bool, every step has to look at the controls
    before: Tensor  # [] int64, the steps before this one have to
    longest_penalty: Tensor  # [batch] float32, length penalty of the longest hypothesis
    last_asked: Tensor  # [1] int64, index of the last hypothesis asked for
    enough: Tensor  # [] float32, hypotheses that end a row


def length_penalty(length: Tensor, alpha: Tensor) -> Tensor:
    """((5 + n) / 6)^alpha, Wu et al. 2016, equation 14."""
    return ((5.0 + length.to(torch.float32)) / 6.0) ** alpha


def limits(controls: Controls, beam: Tensor) -> Limits:
    """Of a request; beam [] int64."""
    always = (
        (controls.repetition_penalty != 1)
        | (controls.no_repeat_ngram_size > 0)
        | (controls.coverage_penalty > 0)
        | (torch.ones_like(controls.suppressed).sum(0, keepdim=True).reshape(()) > 0)  # see `repeats_ngram`
        | (controls.temperature > 0)
    )
    return Limits(
        always=always,
        before=torch.clamp(controls.min_length.max(), min=controls.prefix.size(1)),
        longest_penalty=length_penalty(controls.max_length, controls.alpha),
        last_asked=controls.num_hypotheses.reshape(1) - 1,
        enough=torch.maximum(torch.floor(beam * controls.patience + 0.5), controls.num_hypotheses.to(torch.float32)),
    )


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of the last axis and where they are, as torch.topk; what is not above `LOWEST` comes out as `NEVER`.

    onnxruntime's TopK for CUDA fills rows up to a power of two with the lowest float, which it would rank above -inf:
    such places lie outside the row.
    """
    values, index = torch.topk(scores.clamp(min=LOWEST), count, dim=-1)
    return torch.where(values > LOWEST, values, NEVER), index


def sequences(ancestors: Tensor, tokens: Tensor) -> Tensor:
    """What every beam has chosen so far, from all that the search has.

    Args:
        ancestors: [batch, beam, history] bool; the first position is the start.
        tokens: [batch, history]

    Returns:
        [batch, beam, target_length]
    """
    batch, beam, _ = ancestors.shape
    chosen = torch.where(ancestors, tokens.unsqueeze(1), 0)
    return chosen.view(batch, beam, -1, beam).sum(3)[:, :, 1:]


def among(ids: Tensor, chosen: Tensor, vocab_size: int) -> Tensor:
    """Which words are in ids [batch, beam, n] where `chosen` is True -> [batch, beam, vocab] bool"""
    batch, beam, _ = ids.shape
    index = torch.where(chosen, ids, vocab_size)
    found = torch.zeros(batch, beam, vocab_size + 1, device=ids.device)
    return found.scatter(2, index, 1.0)[:, :, :vocab_size] > 0


def ends_ngram_again(ids: Tensor, size: Tensor, vocab_size: int) -> Tensor:
    """Which words would end an n-gram that ids [batch, beam, n] have already -> [batch, beam, vocab] bool"""
    return among(ids, repeats_ngram(ids, size), vocab_size)


def repeats_ngram(ids: Tensor, size: Tensor) -> Tensor:
    """Where the `size - 1` ids before a position are those at the end: ids [batch, beam, n] -> [batch, beam, n] bool

    The id at such a position would end an n-gram that is there already. There may be no ids yet: on a GPU, onnxruntime
    sums over an axis of no elements only where the axis is kept.
    """
    length = ids.size(2)
    positions = torch.arange(length, device=ids.device)
    before = positions.unsqueeze(1) - positions - 1  # [position, distance]
    earlier = ids[:, :, before.clamp(min=0).flatten()].view(*ids.shape[:2], length, length)
    equal = (earlier == ids.flip(2).unsqueeze(2)) & (before >= 0)
    return ((equal & (positions < size - 1)).sum(3, keepdim=True) == size - 1).squeeze(3)


def constrain(log_probs: Tensor, ids: Tensor, banned: Tensor, step: Tensor, controls: Controls) -> Tensor:
    """log_probs [batch, beam, vocab] of the ids that may follow ids [batch, beam, target_length]; of others `LOWEST`.

    Args:
        banned: [batch, beam, vocab] bool, see `ends_ngram_again`.
    """
    vocab_size = log_probs.size(2)
    words = torch.arange(vocab_size, device=log_probs.device)
    repeated = among(ids, torch.ones_like(ids, dtype=torch.bool), vocab_size)
    penalized = torch.where(repeated, log_probs * controls.repetition_penalty, log_probs)
    suppressed = torch.zeros(vocab_size, device=log_probs.device).scatter(
        0, controls.suppressed, torch.ones_like(controls.suppressed, dtype=torch.float32)
    )
    forbidden = banned | (suppressed > 0)
    too_short = (step + 1 < controls.min_length)[:, None, None]
    forbidden = forbidden | (too_short & (words == EOS_ID))
    allowed = torch.where(forbidden, LOWEST, penalized)
    wanted = forced(step, controls.prefix)[:, None, None]
    return torch.where(wanted == PAD_ID, allowed, torch.where(words == wanted, log_probs, LOWEST))


def forced(step: Tensor, prefix: Tensor) -> Tensor:
    """[batch]: the id of this step, PAD where it is free."""
    padded = torch.nn.functional.pad(prefix, (0, 1), value=PAD_ID)
    return padded.index_select(1, torch.clamp(step, max=prefix.size(1)).reshape(1)).squeeze(1)


def sample(log_probs: Tensor, step: Tensor, controls: Controls) -> tuple[Tensor, Tensor]:
    """One id for every beam, drawn by inversion from what temperature, top-k and top-p leave.

    Args:
        log_probs: [batch, beam, vocab]

    Returns:
        log-probabilities (of `log_probs`, whatever the temperature) and ids [batch, beam]
    """
    vocab_size = log_probs.size(2)
    count: Any = torch.where(controls.top_k > 0, controls.top_k.clamp(max=vocab_size), vocab_size).item()
    check: Any = torch._check  # says to export, which cannot see the value, what it can be
    check(count >= 1)
    check(count <= vocab_size)
    ranked, ids = torch.topk(log_probs, count, dim=2)
    probs = torch.softmax(ranked / controls.temperature, dim=2)
    before = torch.cumsum(probs, dim=2) - probs
    kept = torch.where(before < controls.top_p, probs, 0.0)
    reached = torch.cumsum(kept, dim=2)
    drawn = controls.uniforms.index_select(2, step.reshape(1)) * reached[:, :, -1:]
    index = (reached <= drawn).sum(2, keepdim=True)
    index = torch.minimum(index, (kept > 0).sum(2, keepdim=True) - 1).clamp(min=0)
    return torch.gather(ranked, 2, index).squeeze(2), torch.gather(ids, 2, index).squeeze(2)


def coverage(ancestors: Tensor, attention: Tensor, source_mask: Tensor) -> Tensor:
    """Sum over the source of log(min(attention so far, 1)), Wu et al. 2016, equation 14.

    Args:
        ancestors: [batch, beam, history] bool
        attention: [batch, history, source_length]
        source_mask: [batch, source_length], True at real tokens.

    Returns:
        [batch, beam], at most 0.
    """
    received = (ancestors.to(attention.dtype) @ attention).clamp(NO_COVERAGE, 1.0)
    return torch.where(source_mask.unsqueeze(1), received.log(), 0.0).sum(2)
