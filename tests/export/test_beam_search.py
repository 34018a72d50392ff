"""Laws of the exported graph: graph = torch search = oracle, batched = single, one file for every beam size."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import OperationalError, ParityError
from t2tdeploy.export.beam_search import INPUTS, OUTPUTS, export_beam_search
from t2tdeploy.export.verify import verify
from t2tdeploy.models.beam_search import SearchOptions, beam_search
from t2tdeploy.models.model import Model
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.progress import SilentReporter
from t2tdeploy.runtime import GraphSession
from tests.export.graphs import TINY_VOCAB as VOCAB
from tests.export.graphs import tiny_graph, tiny_model
from tests.models.tiny import HPARAMS, features, masked_transformer, padded, random_sources, tiny_transformer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return tiny_graph()


@pytest.fixture(scope="module")
def session(graph: onnx.ModelProto) -> GraphSession:
    return GraphSession(graph.SerializeToString(), threads=1)


def search(session: GraphSession, rows: list[list[int]], extra: int, options: SearchOptions):
    limits = np.array([len(row) + extra for row in rows])
    return session.search(
        padded(rows).numpy(),
        limits,
        beam_size=options.beam_size,
        alpha=options.alpha,
        num_hypotheses=options.num_hypotheses,
    )


@given(
    seed=st.integers(0, 1000),
    beam_size=st.integers(1, 9),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    hypotheses=st.integers(1, 9),
    extra=st.integers(1, 9),
    count=st.integers(1, 7),
)
@settings(max_examples=40)
def test_graph_is_the_torch_search(model, session, seed, beam_size, alpha, hypotheses, extra, count):
    options = SearchOptions(beam_size, alpha, min(hypotheses, beam_size))
    rows = random_sources(VOCAB, seed, count)
    found = search(session, rows, extra, options)
    limits = torch.tensor([len(row) + extra for row in rows])
    expected = beam_search(model, padded(rows), limits, options)
    assert np.array_equal(found.target_ids, expected.target_ids.numpy())
    assert np.array_equal(found.lengths, expected.lengths.numpy())
    assert np.array_equal(found.finished, expected.finished.numpy())
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-4)


def test_graph_is_the_oracle(model, session):
    for beam_size, alpha, hypotheses in ((1, 0.6, 1), (4, 0.6, 2), (6, 0.0, 6)):
        report = verify(
            model,
            session,
            random_sources(VOCAB, seed=5, count=6),
            beam_size=beam_size,
            alpha=alpha,
            extra_length=4,
            num_hypotheses=hypotheses,
        )
        assert report.passed
        assert report.identical == 6


@pytest.mark.parametrize("fill", [-math.inf, torch.finfo(torch.float32).min])
def test_a_model_that_masks_words_passes(fill):
    """Without EOS among three words: a beam of four has fewer candidates than it looks at."""
    masked = masked_transformer(VOCAB, (3, 4, 5), fill)
    exported = GraphSession(export_beam_search(masked).SerializeToString(), threads=1)
    asked = {"beam_size": 4, "alpha": 0.6, "extra_length": 6, "num_hypotheses": 2}
    assert verify(masked, exported, random_sources(VOCAB, 0), **asked).passed


def test_a_model_that_says_no_numbers_fails_parity():
    broken = masked_transformer(VOCAB, range(VOCAB), 0.0)
    with torch.no_grad():
        broken.modalities["shared"].weight.fill_(math.nan)
    exported = GraphSession(export_beam_search(broken).SerializeToString(), threads=1)
    asked = {"beam_size": 2, "alpha": 0.6, "extra_length": 2, "num_hypotheses": 1}
    with pytest.raises(ParityError, match=r"sentence 0: graph \(\)"):
        verify(broken, exported, random_sources(VOCAB, 0, 1), **asked)


def test_a_graph_of_other_weights_fails_parity(session):
    with pytest.raises(ParityError, match="sentence 0: graph"):
        verify(
            tiny_transformer(VOCAB, seed=12),
            session,
            random_sources(VOCAB, seed=5),
            beam_size=4,
            alpha=0.6,
            extra_length=4,
            num_hypotheses=1,
        )


def test_a_result_does_not_depend_on_the_batch(session):
    rows, options = random_sources(VOCAB, seed=8, count=11), SearchOptions(4, 0.6, 3)
    together = search(session, rows, 5, options)
    for i, row in enumerate(rows):
        alone = search(session, [row], 5, options)
        width = alone.target_ids.shape[2]
        assert np.array_equal(together.target_ids[i, :, :width], alone.target_ids[0])
        assert not together.target_ids[i, :, width:].any()
        np.testing.assert_allclose(together.scores[i], alone.scores[0], atol=1e-4)


def test_exact_ties_go_to_the_lower_index_as_in_the_oracle():
    """All words equally likely at every step: everything is a tie."""
    flat = tiny_transformer(VOCAB)
    with torch.no_grad():
        flat.modalities["shared"].weight.zero_()
    report = verify(
        flat,
        GraphSession(export_beam_search(flat).SerializeToString(), threads=1),
        random_sources(VOCAB, seed=5, count=2),
        beam_size=3,
        alpha=0.6,
        extra_length=2,
        num_hypotheses=3,
    )
    assert report.passed


def test_scores_that_are_no_numbers_fail_parity(model, session):
    class Broken:
        def search(self, *arguments, **options):
            found = session.search(*arguments, **options)
            return dataclasses.replace(found, scores=np.full_like(found.scores, np.nan))

    with pytest.raises(ParityError, match="largest score difference inf"):
        verify(
            model,
            Broken(),
            random_sources(VOCAB, seed=5, count=1),
            beam_size=2,
            alpha=0.6,
            extra_length=2,
            num_hypotheses=1,
        )


def test_long_scores_are_compared_as_exactly_as_float32_adds_them_up():
    """All words equally likely and no end: every addition of a sum of hundreds rounds the same way."""
    endless = masked_transformer(VOCAB, range(2, VOCAB), -math.inf)
    with torch.no_grad():
        endless.modalities["shared"].weight.zero_()
    exported = GraphSession(export_beam_search(endless).SerializeToString(), threads=1)

    class Wrong:
        def search(self, *arguments, **options):
            found = exported.search(*arguments, **options)
            return dataclasses.replace(found, scores=found.scores * np.float32(1.0001))

    asked = {"beam_size": 1, "alpha": 0.6, "extra_length": 200, "num_hypotheses": 1}
    sources = random_sources(VOCAB, 0, 1)
    report = verify(endless, exported, sources, **asked)
    assert report.passed
    assert report.largest_score_difference > report.score_tolerance
    with pytest.raises(ParityError, match=r"1 of 1 sentences identical, largest score difference 0\.07"):
        verify(endless, Wrong(), sources, **asked)


def test_a_state_with_an_axis_of_unknown_size_is_named(model):
    class Odd(Transformer):
        def state_axes(self):
            return {name: (axes[0], "width", *axes[2:]) for name, axes in super().state_axes().items()}

    odd = Odd(HPARAMS, features(VOCAB)).eval()
    with pytest.raises(OperationalError, match="an axis 'width' of unknown size"):
        export_beam_search(odd)


def test_signature_opset_and_operators_are_what_onnxruntime_1_19_reads(graph):
    def operators(nodes):
        for node in nodes:
            yield node.domain, node.op_type
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from operators(attribute.g.node)

    assert graph.ir_version == 10
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]
    assert {domain for domain, _ in operators(graph.graph.node)} == {""}
    assert [value.name for value in graph.graph.input] == list(INPUTS)
    assert [value.name for value in graph.graph.output] == list(OUTPUTS)


def test_every_weight_is_in_the_file_once(model, graph):
    weights = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
    assert stored < 1.1 * weights + 1024


def test_a_model_without_a_cache_of_its_own_exports_the_same(model, session):
    class Uncached(Transformer):
        memory_axes, state_axes = Model.memory_axes, Model.state_axes
        encode, initial_state, decode_step = Model.encode, Model.initial_state, Model.decode_step

    uncached = Uncached(HPARAMS, features(VOCAB)).eval()
    uncached.load_state_dict(model.state_dict())
    rows, options = random_sources(VOCAB, seed=3), SearchOptions(3, 0.6, 2)
    other = GraphSession(export_beam_search(uncached).SerializeToString(), threads=1)
    found, expected = search(other, rows, 4, options), search(session, rows, 4, options)
    assert np.array_equal(found.target_ids, expected.target_ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_a_model_with_a_branch_in_its_step_exports(model, session):
    """torch.cond becomes an If, whose subgraphs see the Loop's names."""

    class Branching(Transformer):
        def decode_step(self, tokens, step, memory, state, ancestors):
            logits, *rest = super().decode_step(tokens, step, memory, state, ancestors)
            return torch.cond(step > 1000, lambda x: x - 1.0, lambda x: x * 1.0, (logits,)), *rest

    branching = Branching(HPARAMS, features(VOCAB)).eval()
    branching.load_state_dict(model.state_dict())
    rows, options = random_sources(VOCAB, seed=3, count=2), SearchOptions(2, 0.6, 1)
    other = GraphSession(export_beam_search(branching).SerializeToString(), threads=1)
    assert np.array_equal(search(other, rows, 3, options).target_ids, search(session, rows, 3, options).target_ids)


class _Messages(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(("seconds", "count", "told"), [(-1.0, 3, 1), (-1.0, 1, 0), (1e9, 3, 0)])
def test_a_slow_comparison_says_once_how_to_shorten_what_is_left(
    model: Transformer,
    session: GraphSession,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    count: int,
    told: int,
) -> None:
    monkeypatch.setattr("t2tdeploy.export.verify.SLOW_SECONDS", seconds)
    reporter, sources = _Messages(), random_sources(VOCAB, seed=5, count=count)
    verify(model, session, sources, beam_size=2, alpha=0.6, extra_length=2, num_hypotheses=1, reporter=reporter)
    assert len(reporter.lines) == told
    assert all("--parity-sentences 2" in line for line in reporter.lines)
