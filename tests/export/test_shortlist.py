"""Laws of shortlists: graph = oracle on the ids allowed, batched = single, a shortlist of all ids = none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.decoding import MAX_BEAM_SIZE
from t2tdeploy.errors import OperationalError
from t2tdeploy.export.lexicon import Lexicon, make_lexicon
from t2tdeploy.export.placement import serialized
from t2tdeploy.export.quantize import quantize_search
from t2tdeploy.export.shortlist import shortlisted
from t2tdeploy.export.verify import model_log_probs
from t2tdeploy.features import EOS_ID, PAD_ID
from t2tdeploy.models.oracle import NextLogProbs, OracleInputs, oracle_search
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.runtime import GraphSession, sample_chances
from tests.export.graphs import TINY_VOCAB as VOCAB
from tests.export.graphs import tiny_graph, tiny_model
from tests.export.searches import attention_of, controls_strategy, found_ids, search
from tests.models.tiny import padded, random_sources

torch.set_num_threads(1)
EVERYTHING = Lexicon(np.zeros((VOCAB, 1), np.int64), np.arange(VOCAB))


def some_ids(seed: int) -> Lexicon:
    """Two for each source id, and enough for a beam of six."""
    random = np.random.default_rng(seed)
    always = np.union1d(random.choice(VOCAB, 12, replace=False), [PAD_ID, EOS_ID])
    return Lexicon(random.integers(0, VOCAB, (VOCAB, 2)), always)


LEXICON = some_ids(1)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


@pytest.fixture(scope="module")
def session() -> GraphSession:
    return opened(shortlisted(tiny_graph(), LEXICON))


@pytest.fixture(scope="module")
def eight_bits() -> onnx.ModelProto:
    return quantize_search(tiny_graph(), random_sources(VOCAB, 3, 20), beam_size=4, alpha=0.6, extra_length=5)


def opened(graph: onnx.ModelProto) -> GraphSession:
    return GraphSession(graph.SerializeToString(), threads=1)


def among(allowed: set[int], log_probs: NextLogProbs) -> NextLogProbs:
    """The same model if it could say nothing else."""

    def of_allowed(prefixes: list[list[int]]) -> list[list[float]]:
        rows = []
        for row in log_probs(prefixes):
            total = math.log(sum(math.exp(row[token]) for token in allowed))
            rows.append([value - total if token in allowed else -math.inf for token, value in enumerate(row)])
        return rows

    return of_allowed


@given(
    seed=st.integers(0, 1000),
    beam=st.integers(1, 6),
    controls=controls_strategy,
    sentences=st.lists(
        st.tuples(st.integers(1, 6), st.lists(st.integers(3, VOCAB - 1), max_size=3)), min_size=1, max_size=4
    ),
)
@settings(max_examples=80)
def test_graph_is_the_oracle_on_what_is_allowed(model, session, seed, beam, controls, sentences):
    """Prefixes that are forced are allowed."""
    rows = random_sources(VOCAB, seed, len(sentences))
    limits = [len(row) + extra for row, (extra, _) in zip(rows, sentences, strict=True)]
    prefixes = [prefix[: limit - 1] for limit, (_, prefix) in zip(limits, sentences, strict=True)]
    result = search(session, rows, limits, beam=beam, hypotheses=beam, controls=controls, prefixes=prefixes)
    chances = sample_chances(padded(rows).numpy(), max(limits), beam, controls.seed)
    for i, row in enumerate(rows):
        expected = oracle_search(
            among(LEXICON.allowed(row) | {*prefixes[i]}, model_log_probs(model, row)),
            beam_size=beam,
            alpha=0.6,
            max_length=limits[i],
            num_hypotheses=beam,
            controls=controls,
            inputs=OracleInputs(0, tuple(prefixes[i]), attention_of(model, row), chances[i]),
        )
        assert found_ids(result, i) == [hypothesis.ids for hypothesis in expected.hypotheses]
        scores = [hypothesis.score for hypothesis in expected.hypotheses]
        np.testing.assert_allclose(result.scores[i, : len(scores)], scores, atol=1e-4)


def test_the_narrowest_lexicon_has_enough_for_the_widest_beam() -> None:
    row = [5, 6, 7, EOS_ID]
    narrow = make_lexicon([([5], [6])], source_size=VOCAB, target_size=VOCAB, shared=False, width=1)
    result = search(opened(shortlisted(tiny_graph(), narrow)), [row], [8], beam=MAX_BEAM_SIZE)
    assert result.lengths[0, 0] > 0


def same_answers(one: GraphSession, other: GraphSession, rows: Sequence[list[int]]) -> None:
    limits = [len(row) + 6 for row in rows]
    found, expected = (search(each, [*rows], limits, hypotheses=3) for each in (one, other))
    assert np.array_equal(found.target_ids, expected.target_ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_a_shortlist_of_everything_changes_nothing(eight_bits: onnx.ModelProto) -> None:
    rows = random_sources(VOCAB, seed=8, count=9)
    for graph in (tiny_graph(), eight_bits):
        same_answers(opened(shortlisted(graph, EVERYTHING)), opened(graph), rows)


def test_a_graph_as_it_was_written_becomes_the_same(eight_bits: onnx.ModelProto) -> None:
    """Its weights lie in the body that reads them."""
    for graph in (tiny_graph(), eight_bits):
        written = onnx.load_from_string(serialized(graph))
        found, expected = (shortlisted(one, LEXICON) for one in (written, graph))
        assert list(found.graph.node) == list(expected.graph.node)
        assert found.ByteSize() == expected.ByteSize()


def test_a_result_does_not_depend_on_the_batch(eight_bits: onnx.ModelProto) -> None:
    """A sentence does not choose from what its neighbours brought along."""
    rows = random_sources(VOCAB, seed=8, count=11)
    limits = [len(row) + 6 for row in rows]
    for graph in (tiny_graph(), eight_bits):
        session = opened(shortlisted(graph, LEXICON))
        together = search(session, rows, limits, hypotheses=3)
        for i, row in enumerate(rows):
            alone = search(session, [row], [limits[i]], hypotheses=3)
            assert found_ids(alone, 0) == found_ids(together, i)
            np.testing.assert_allclose(together.scores[i], alone.scores[0], atol=1e-5)
            assert {token for ids in found_ids(alone, 0) for token in ids} <= LEXICON.allowed(row)


def test_the_product_of_a_shortlist_is_of_integers(eight_bits: onnx.ModelProto, tmp_path: Path) -> None:
    """Although its weights are gathered, not constant."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    InferenceSession(shortlisted(eight_bits, LEXICON).SerializeToString(), options, providers=["CPUExecutionProvider"])
    segments = next(node for node in onnx.load(tmp_path / "optimized.onnx").graph.node if node.name == "segments")
    search_loop = next(node for node in segments.attribute[0].g.node if node.name == "search")
    steps = next(attribute.g for attribute in search_loop.attribute if attribute.name == "body")
    softmax = next(node for node in steps.node if node.op_type == "LogSoftmax")
    makers = {name: node for node in steps.node for name in node.output}
    assert makers[makers[softmax.input[0]].input[0]].op_type == "MatMulIntegerToFloat"


def test_what_is_added_is_small_and_standard(eight_bits: onnx.ModelProto) -> None:
    short = shortlisted(eight_bits, LEXICON)
    onnx.checker.check_model(short, full_check=True)
    assert {node.domain for node in short.graph.node} == {""}
    table = 2 * LEXICON.table.size + VOCAB  # bytes
    assert short.ByteSize() - eight_bits.ByteSize() < table + 4000


def test_logits_that_are_no_product_are_refused() -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(tiny_graph())
    segments = next(node for node in graph.graph.node if node.name == "segments")
    search_loop = next(node for node in segments.attribute[0].g.node if node.name == "search")
    steps = next(attribute.g for attribute in search_loop.attribute if attribute.name == "body")
    softmax = next(node for node in steps.node if "log_probs" in node.output)
    steps.node.insert(0, onnx.helper.make_node("Identity", [softmax.input[0]], ["elsewhere"]))
    softmax.input[0] = "elsewhere"
    with pytest.raises(OperationalError, match="product of a state and a matrix"):
        shortlisted(graph, LEXICON)
