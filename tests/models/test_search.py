"""Laws of the search: oracle = exhaustive, tensors = oracle, batched = single, cached = full."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.decoding import SearchControls
from t2tdeploy.errors import OperationalError, RequestError
from t2tdeploy.export.verify import model_log_probs
from t2tdeploy.models.beam_search import SearchOptions, beam_search
from t2tdeploy.models.model import Model
from t2tdeploy.models.oracle import OracleResult, exhaustive_search, oracle_search
from t2tdeploy.models.search import past_of, rows_of
from t2tdeploy.models.transformer import Transformer
from tests.models.tiny import HPARAMS, features, masked_transformer, padded, random_sources, tiny_transformer

torch.set_num_threads(1)


@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.0, 0.6, 1.5]), max_length=st.integers(1, 4))
@settings(max_examples=25)
def test_oracle_with_a_beam_that_holds_everything_is_exhaustive_search(seed: int, alpha: float, max_length: int):
    vocab_size = 4
    tables = torch.log_softmax(torch.randn(4**max_length, vocab_size, generator=torch.manual_seed(seed)) * 2, -1)

    def next_log_probs(prefixes: list[list[int]]) -> list[list[float]]:
        return [tables[sum(t * 4**i for i, t in enumerate(p[1:])) % len(tables)].tolist() for p in prefixes]

    everything = exhaustive_search(next_log_probs, vocab_size=vocab_size, alpha=alpha, max_length=max_length)
    count = min(3, len(everything))
    found = oracle_search(
        next_log_probs, beam_size=4**max_length, alpha=alpha, max_length=max_length, num_hypotheses=count
    )
    assert found.finished
    assert [h.score for h in found.hypotheses] == pytest.approx([h.score for h in everything[:count]])
    assert [h.ids for h in found.hypotheses] == [h.ids for h in everything[:count]]


@given(
    seed=st.integers(0, 10_000),
    beam_size=st.integers(1, 6),
    alpha=st.sampled_from([0.0, 0.6, 1.5]),
    hypotheses=st.integers(1, 6),
)
@settings(max_examples=60)
def test_patience_only_improves_what_is_found(seed: int, beam_size: int, alpha: float, hypotheses: int):
    """And it looks at more; enough of it is the search without early stopping."""
    vocab_size, hypotheses = 9, min(hypotheses, beam_size)
    tables = torch.log_softmax(torch.randn(999, vocab_size, generator=torch.manual_seed(seed)) * 2, -1).tolist()

    def search(patience: float) -> tuple[OracleResult, int]:
        asked = 0

        def next_log_probs(prefixes: list[list[int]]) -> list[list[float]]:
            nonlocal asked
            asked += 1
            return [tables[sum(token * 31**i for i, token in enumerate(prefix)) % 999] for prefix in prefixes]

        controls = SearchControls(patience=patience)
        found = oracle_search(
            next_log_probs,
            beam_size=beam_size,
            alpha=alpha,
            max_length=8,
            num_hypotheses=hypotheses,
            controls=controls,
        )
        assert len(found.hypotheses) == hypotheses or asked == 8
        return found, asked

    found = [search(patience) for patience in (0.2, 1.0, 2.0, 99.0, math.inf)]
    for (less, steps), (more, more_steps) in itertools.pairwise(found):
        assert steps <= more_steps
        if less.finished:
            assert all(a.score <= b.score for a, b in zip(less.hypotheses, more.hypotheses, strict=False))
    assert found[-2] == found[-1]


@given(
    seed=st.integers(0, 1000),
    beam_size=st.integers(1, 5),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    hypotheses=st.integers(1, 5),
    patience=st.sampled_from([math.inf, 0.5, 1.0, 1.5]),
)
@settings(max_examples=25)
def test_search_on_tensors_is_the_oracle(seed: int, beam_size: int, alpha: float, hypotheses: int, patience: float):
    vocab_size, hypotheses = 12, min(hypotheses, beam_size)
    model, rows = tiny_transformer(vocab_size, seed), random_sources(12, seed)
    max_lengths = [len(row) + 3 for row in rows]
    options = SearchOptions(beam_size, alpha, hypotheses, patience)
    result = beam_search(model, padded(rows), torch.tensor(max_lengths), options)
    for i, row in enumerate(rows):
        expected = oracle_search(
            model_log_probs(model, row),
            beam_size=beam_size,
            alpha=alpha,
            max_length=max_lengths[i],
            num_hypotheses=hypotheses,
            controls=SearchControls(patience=patience),
        )
        assert bool(result.finished[i]) == expected.finished
        for j, hypothesis in enumerate(expected.hypotheses):
            length = int(result.lengths[i, j])
            assert tuple(result.target_ids[i, j, :length].tolist()) == hypothesis.ids
            assert not result.target_ids[i, j, length:].any()
            assert float(result.scores[i, j]) == pytest.approx(hypothesis.score, abs=1e-4)
        for j in range(len(expected.hypotheses), hypotheses):
            assert result.lengths[i, j] == 0
            assert result.scores[i, j] == -torch.inf


@given(
    seed=st.integers(0, 1000),
    words=st.sets(st.integers(0, 11), min_size=1, max_size=4),
    fill=st.sampled_from([-math.inf, torch.finfo(torch.float32).min]),
    beam_size=st.integers(1, 6),
    hypotheses=st.integers(1, 6),
    patience=st.sampled_from([math.inf, 0.5, 1.0]),
)
@settings(max_examples=40)
def test_what_a_model_masks_is_no_candidate(seed, words, fill, beam_size, hypotheses, patience):
    hypotheses = min(hypotheses, beam_size)
    model, row = masked_transformer(12, words, fill, seed), random_sources(12, seed, 1)[0]
    result = beam_search(
        model, padded([row]), torch.tensor([5]), SearchOptions(beam_size, 0.6, hypotheses, patience=patience)
    )
    expected = oracle_search(
        model_log_probs(model, row),
        beam_size=beam_size,
        alpha=0.6,
        max_length=5,
        num_hypotheses=hypotheses,
        controls=SearchControls(patience=patience),
    )
    lengths = result.lengths[0].tolist()
    found = [tuple(ids[:length]) for ids, length in zip(result.target_ids[0].tolist(), lengths, strict=True) if length]
    assert found == [hypothesis.ids for hypothesis in expected.hypotheses]
    assert bool(result.finished[0]) == expected.finished
    assert {token for ids in found for token in ids} <= words


@pytest.mark.parametrize("training", [True, False])
def test_a_search_leaves_the_model_s_mode_as_it_was_even_if_it_fails(training: bool):
    class Failing(Transformer):
        def decode_step(self, *arguments):
            assert not self.training
            raise OSError("no luck")

    model = Failing(HPARAMS, features(12)).train(training)
    with pytest.raises(OSError, match="no luck"):
        beam_search(model, padded([[3, 4, 1]]), torch.tensor([4]), SearchOptions())
    assert model.training is training


def test_a_beam_larger_than_half_the_vocabulary_is_refused():
    with pytest.raises(RequestError, match="beam_size: 7 is more than half the target vocabulary of 12"):
        beam_search(tiny_transformer(12), padded(random_sources(12, 0)), torch.full((5,), 9), SearchOptions(7, 0.6, 1))


@pytest.mark.parametrize("patience", [math.inf, 1.0])
def test_a_result_does_not_depend_on_the_batch(patience: float):
    model, rows = tiny_transformer(30, seed=3), random_sources(30, seed=4, count=12)
    limits = torch.tensor([len(row) + 4 for row in rows])
    options = SearchOptions(4, 0.6, 3, patience)
    together = beam_search(model, padded(rows), limits, options)
    for i, row in enumerate(rows):
        alone = beam_search(model, torch.tensor([row]), limits[i : i + 1], options)
        width = alone.target_ids.size(2)
        assert torch.equal(together.target_ids[i, :, :width], alone.target_ids[0])
        assert not together.target_ids[i, :, width:].any()
        torch.testing.assert_close(together.scores[i], alone.scores[0], atol=1e-4, rtol=0)
        assert together.finished[i] == alone.finished[0]


def test_only_a_class_that_says_so_itself_is_given_the_past():
    class Same(Transformer):
        pass

    class Other(Transformer):
        decode_step = Transformer.decode_step  # stands for one that knows nothing of a past

    caches = [f"state_{layer}_{part}" for layer in range(2) for part in ("key", "value")]
    assert past_of(tiny_transformer(20)) == {name: f"past_{name}" for name in caches}
    assert past_of(Same(HPARAMS, features(20))).keys() == set(Same(HPARAMS, features(20)).state_axes())
    assert past_of(Other(HPARAMS, features(20))) == {}


@pytest.mark.parametrize("patience", [math.inf, 1.0])
def test_a_model_without_a_cache_of_its_own_decodes_the_same(patience: float):
    class Uncached(Transformer):
        memory_axes, state_axes = Model.memory_axes, Model.state_axes
        encode, initial_state, decode_step = Model.encode, Model.initial_state, Model.decode_step

    cached, rows = tiny_transformer(20, seed=5), random_sources(20, seed=6)
    uncached = Uncached(HPARAMS, cached.features)
    uncached.load_state_dict(cached.state_dict())
    limits, options = torch.tensor([len(row) + 4 for row in rows]), SearchOptions(3, 0.6, 2, patience)
    first = beam_search(cached, padded(rows), limits, options)
    second = beam_search(uncached, padded(rows), limits, options)
    assert torch.equal(first.target_ids, second.target_ids)
    torch.testing.assert_close(first.scores, second.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("axes", [(1, "rows", 8), (), ("target_length", "rows")])
def test_a_state_that_would_not_follow_its_beams_is_refused(axes: tuple[str | int, ...]) -> None:
    model = tiny_transformer(9)
    model.state_axes = lambda: {"state_prefix_ids": axes}  # type: ignore[method-assign]
    for use in (
        lambda: rows_of(model),
        lambda: beam_search(model, padded([[3, 4, 1]]), torch.tensor([4]), SearchOptions()),
    ):
        with pytest.raises(OperationalError, match=r"state_prefix_ids has the axes .*; the first must be 'rows'"):
            use()
