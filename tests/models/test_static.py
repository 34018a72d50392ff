"""Laws of the search with fixed sizes, step by step in torch: it is the search that grows, whatever is asked of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from t2tdeploy.decoding import SearchControls
from t2tdeploy.models.backtrace import SearchResult
from t2tdeploy.models.beam_search import SearchOptions, _follow_back, beam_search
from t2tdeploy.models.controls import Controls, neutral
from t2tdeploy.models.search import StepRecord
from t2tdeploy.models.static import StaticSearch, StaticState, in_order, static_start, static_step
from t2tdeploy.models.transformer import Transformer
from tests.models.tiny import padded, random_sources, tiny_transformer

torch.set_num_threads(1)
VOCAB, EXTRA = 30, 5

searches = st.builds(
    lambda beam_size, hypotheses, **wishes: StaticSearch(
        beam_size, num_hypotheses=min(beam_size, hypotheses), extra_length=EXTRA, **wishes
    ),
    beam_size=st.integers(1, 5),
    hypotheses=st.integers(1, 5),
    alpha=st.sampled_from([0.0, 0.6, 1.5]),
    controls=st.builds(
        SearchControls,
        suppressed=st.lists(st.integers(2, VOCAB - 1), max_size=3).map(tuple),
        repetition_penalty=st.sampled_from([1.0, 1.4]),
        no_repeat_ngram_size=st.integers(0, 3),
        coverage_penalty=st.sampled_from([0.0, 0.3]),
        patience=st.sampled_from([math.inf, 0.5, 1.0]),
    ),
    min_length=st.integers(0, 6),
    prefix=st.lists(st.integers(3, VOCAB - 1), max_size=2).map(tuple),
)


def as_tensors(search: StaticSearch, max_length: Tensor) -> Controls:
    """What the search that grows has to be asked, to do the same."""
    rows, asked = max_length.size(0), search.controls
    plain = neutral(max_length, torch.tensor(search.alpha), torch.tensor(search.num_hypotheses))
    return plain._replace(
        min_length=torch.full((rows,), search.min_length),
        prefix=torch.tensor([search.prefix] * rows, dtype=torch.int64),
        suppressed=torch.tensor(asked.suppressed, dtype=torch.int64),
        repetition_penalty=torch.tensor(asked.repetition_penalty),
        no_repeat_ngram_size=torch.tensor(asked.no_repeat_ngram_size),
        coverage_penalty=torch.tensor(asked.coverage_penalty),
    )


@torch.inference_mode()
def run(model: Transformer, source_ids: Tensor, limits: Tensor, search: StaticSearch, more: int) -> SearchResult:
    """Until all is decided, and `more` steps."""
    memory, state = model.encode(source_ids), static_start(model, source_ids, search)
    shapes = [part.shape for part in flat(state)]
    for _ in range(source_ids.size(1) + EXTRA):
        decided, state = static_step(model, state, memory, source_ids, limits, search)
        assert [part.shape for part in flat(state)] == shapes
        more -= bool(decided)
        if more < 0:
            break
    records, attention = in_order(state)
    steps = [StepRecord(*parts) for parts in zip(*records, strict=True)]
    state = state._replace(beam=state.beam._replace(history_attention=attention))
    return _follow_back(state.beam, steps, as_tensors(search, limits))


def flat(state: StaticState) -> list[Tensor]:
    return [*state.beam, *state.records, *state.model]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_transformer(VOCAB, seed=2, layers=1)


@given(search=searches, seed=st.integers(0, 1000), extra=st.integers(1, EXTRA), more=st.sampled_from([0, 1, 99]))
@settings(max_examples=60)
def test_it_is_the_search_that_grows_also_after_steps_too_many(model, search, seed, extra, more):
    rows = random_sources(VOCAB, seed, count=3)
    limits = torch.tensor([len(row) + extra for row in rows])
    found = run(model, padded(rows), limits, search, more)
    options = SearchOptions(search.beam_size, search.alpha, search.num_hypotheses, search.controls.patience)
    expected = beam_search(model, padded(rows), limits, options, as_tensors(search, limits))
    width = expected.target_ids.size(2)
    assert torch.equal(found.target_ids[:, :, :width], expected.target_ids)
    assert not found.target_ids[:, :, width:].any()
    assert torch.equal(found.lengths, expected.lengths)
    assert torch.equal(found.finished, expected.finished)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.token_scores[:, :, :width], expected.token_scores, atol=1e-4)
    np.testing.assert_allclose(found.attention[:, :, :width], expected.attention, atol=1e-4)


@given(search=searches, seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_neither_search_sorts_what_onnxruntime_cannot_sort_on_a_gpu(model, search, seed):
    """Its TopK for CUDA ranks what it fills rows up with, the lowest float, above -inf."""
    topk, sorted_ones = torch.topk, []

    def noting(scores: Tensor, *arguments: int, **options: int) -> tuple[Tensor, Tensor]:
        sorted_ones.append(scores.min().item())
        return topk(scores, *arguments, **options)

    rows = random_sources(VOCAB, seed, count=3)
    limits = torch.tensor([len(row) + row[0] % EXTRA + 1 for row in rows])
    options = SearchOptions(search.beam_size, search.alpha, search.num_hypotheses, search.controls.patience)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "topk", noting)
        run(model, padded(rows), limits, search, more=1)
        beam_search(model, padded(rows), limits, options, as_tensors(search, limits))
    assert min(sorted_ones) > torch.finfo(torch.float32).min
