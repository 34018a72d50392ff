"""Laws of what a request may ask of the exported search: graph = oracle for every control and all of them together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.decoding import SearchControls
from t2tdeploy.export.verify import model_log_probs
from t2tdeploy.features import EOS_ID, UNK_ID
from t2tdeploy.models.beam_search import SearchOptions, beam_search
from t2tdeploy.models.oracle import OracleInputs, oracle_search
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.runtime import GraphSession, sample_chances
from tests.export.graphs import TINY_VOCAB as VOCAB
from tests.export.graphs import tiny_graph, tiny_model
from tests.export.searches import attention_of, controls_strategy, found_ids, search
from tests.models.tiny import padded, random_sources

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


@pytest.fixture(scope="module")
def session() -> GraphSession:
    return GraphSession(tiny_graph().SerializeToString(), threads=1)


@given(
    seed=st.integers(0, 1000),
    beam=st.integers(1, 6),
    hypotheses=st.integers(1, 6),
    alpha=st.sampled_from([0.0, 0.6, 1.2]),
    controls=controls_strategy,
    sentences=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([0, 0, 3, 6]), st.lists(st.integers(3, VOCAB - 1), max_size=3)),
        min_size=1,
        max_size=4,
    ),
    ends=st.booleans(),
)
@settings(max_examples=150)
def test_graph_is_the_oracle(model, session, seed, beam, hypotheses, alpha, controls, sentences, ends):
    hypotheses = beam if controls.temperature else min(beam, hypotheses)
    rows = random_sources(VOCAB, seed, len(sentences))
    limits = [len(row) + extra for row, (extra, _, _) in zip(rows, sentences, strict=True)]
    shortest = [min(limit, least) for limit, (_, least, _) in zip(limits, sentences, strict=True)]
    prefixes = [prefix[: limit - 1] for limit, (_, _, prefix) in zip(limits, sentences, strict=True)]
    if ends:
        prefixes[0] = [*prefixes[0], EOS_ID]  # the whole target is given
    result = search(
        session,
        rows,
        limits,
        beam=beam,
        hypotheses=hypotheses,
        alpha=alpha,
        controls=controls,
        shortest=shortest,
        prefixes=prefixes,
    )
    chances = sample_chances(padded(rows).numpy(), max(limits), beam, controls.seed)
    for i, row in enumerate(rows):
        expected = oracle_search(
            model_log_probs(model, row),
            beam_size=beam,
            alpha=alpha,
            max_length=limits[i],
            num_hypotheses=hypotheses,
            controls=controls,
            inputs=OracleInputs(shortest[i], tuple(prefixes[i]), attention_of(model, row), chances[i]),
        )
        assert found_ids(result, i) == [hypothesis.ids for hypothesis in expected.hypotheses]
        assert bool(result.finished[i]) == expected.finished
        scores = [hypothesis.score for hypothesis in expected.hypotheses]
        np.testing.assert_allclose(result.scores[i, : len(scores)], scores, atol=1e-4)


def test_a_sample_depends_on_seed_and_source_alone(session):
    rows = random_sources(VOCAB, seed=8, count=7)
    limits = [len(row) + 5 for row in rows]
    controls = SearchControls(temperature=1.0, seed=7)
    together = search(session, rows, limits, beam=3, hypotheses=3, controls=controls)
    for i, row in enumerate(rows):
        alone = search(session, [row], limits[i : i + 1], beam=3, hypotheses=3, controls=controls)
        assert found_ids(alone, 0) == found_ids(together, i)
    other = search(session, rows, limits, beam=3, hypotheses=3, controls=SearchControls(temperature=1.0, seed=8))
    assert any(found_ids(other, i) != found_ids(together, i) for i in range(len(rows)))


def test_samples_are_distributed_as_the_model_says(model, session):
    """The first token, over many seeds: total variation from its probabilities below what 2000 draws leave."""
    row = random_sources(VOCAB, seed=1, count=1)[0]
    probs = np.exp(model_log_probs(model, row)([[0]])[0])
    counts = np.zeros(VOCAB)
    for seed in range(125):
        drawn = search(session, [row], [1], beam=16, hypotheses=16, controls=SearchControls(temperature=1.0, seed=seed))
        ids = drawn.target_ids[0, :, 0][drawn.lengths[0] > 0]
        # A row in which something ended gives what ended; count the steps that show all samples.
        if not drawn.finished[0]:
            counts += np.bincount(ids, minlength=VOCAB)
    expected = probs.copy()
    expected[EOS_ID] = 0
    expected /= expected.sum()
    assert counts.sum() > 500
    assert 0.5 * np.abs(counts / counts.sum() - expected).sum() < 0.5 * np.sqrt(VOCAB / counts.sum())


def test_token_scores_add_up_and_attention_is_the_full_forwards(model, session):
    rows = random_sources(VOCAB, seed=5, count=6)
    limits = [len(row) + 6 for row in rows]
    result = search(session, rows, limits, hypotheses=3)
    for i, row in enumerate(rows):
        for j, ids in enumerate(found_ids(result, i)):
            log_probs, looks = model_log_probs(model, row), attention_of(model, row)
            prefixes = [[0, *ids[:at]] for at in range(len(ids))]
            expected = [log_probs([prefix])[0][token] for prefix, token in zip(prefixes, ids, strict=True)]
            np.testing.assert_allclose(result.token_scores[i, j, : len(ids)], expected, atol=1e-4)
            assert not result.token_scores[i, j, len(ids) :].any()
            attention = result.attention[i, j, : len(ids), : len(row)]
            np.testing.assert_allclose(attention, looks(prefixes), atol=1e-5)
            assert not result.attention[i, j, len(ids) :].any()
            assert not result.attention[i, j, :, len(row) :].any()


def test_a_forced_target_is_scored(model, session):
    row, target = random_sources(VOCAB, seed=2, count=1)[0], [5, UNK_ID, 7, 7, EOS_ID]
    result = search(session, [row], [len(target)], beam=1, alpha=0.0, prefixes=[target])
    log_probs = model_log_probs(model, row)
    expected = [log_probs([[0, *target[:at]]])[0][token] for at, token in enumerate(target)]
    assert found_ids(result, 0) == [tuple(target)]
    np.testing.assert_allclose(result.token_scores[0, 0], expected, atol=1e-4)
    assert result.scores[0, 0] == pytest.approx(sum(expected), abs=1e-4)


def test_torch_search_is_the_graph_with_attention_and_token_scores(model, session):
    rows = random_sources(VOCAB, seed=6, count=5)
    limits = [len(row) + 4 for row in rows]
    found = search(session, rows, limits, beam=5, hypotheses=4)
    expected = beam_search(model, padded(rows), torch.tensor(limits), SearchOptions(5, 0.6, 4))
    np.testing.assert_allclose(found.token_scores, expected.token_scores.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.attention, expected.attention.numpy(), atol=1e-5)
