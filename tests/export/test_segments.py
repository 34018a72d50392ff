"""Laws of rows that leave: nothing of a result changes, and steps compute fewer and fewer rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from t2tdeploy.decoding import SearchControls
from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.forward import is_worth_keeping_apart
from t2tdeploy.export.naming import names_read
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_hparams import transformer_base, transformer_small
from t2tdeploy.runtime import GraphSession
from tests.export.graphs import TINY_VOCAB as VOCAB
from tests.export.graphs import tiny_graph, tiny_model
from tests.models.tiny import features, padded, random_sources

ROWS = random_sources(VOCAB, seed=8, count=13)
LIMITS = np.array([2, 30, 5, 11, 3, 7, 1, 22, 4, 9, 16, 6, 13])  # one after the other
CONTROLS = {
    "plain": SearchControls(),
    "patience": SearchControls(patience=1.0),
    "constrained": SearchControls(
        suppressed=(7,), repetition_penalty=1.3, no_repeat_ngram_size=2, coverage_penalty=0.2
    ),
}


@pytest.fixture(scope="module")
def session() -> GraphSession:
    return GraphSession(tiny_graph().SerializeToString(), threads=1)


@pytest.fixture(scope="module")
def whole() -> onnx.ModelProto:
    """The same search as it is exported for so small a model."""
    return export_beam_search(tiny_model())


def search(session: GraphSession, chosen: list[int], controls: SearchControls):
    prefixes = [[*range(3, 3 + row % 3), 0, 0][:2] for row in chosen]
    return session.search(
        padded([ROWS[row] for row in chosen]).numpy(),
        LIMITS[chosen],
        beam_size=3,
        alpha=0.6,
        num_hypotheses=3,
        controls=controls,
        min_length=np.array([min(LIMITS[row], row % 4) for row in chosen]),
        prefix=np.array(prefixes),
    )


@pytest.mark.parametrize("name", CONTROLS)
def test_all_that_is_known_of_a_row_is_what_it_would_be_alone(session: GraphSession, name: str) -> None:
    together = search(session, [*range(len(ROWS))], CONTROLS[name])
    for row, source in enumerate(ROWS):
        alone = search(session, [row], CONTROLS[name])
        assert np.array_equal(together.lengths[row], alone.lengths[0])
        assert together.finished[row] == alone.finished[0]
        width = alone.target_ids.shape[2]
        for field in ("target_ids", "token_scores", "attention"):
            mine, expected = getattr(together, field)[row], getattr(alone, field)[0]
            if field == "attention":
                assert not mine[:, :, len(source) :].any()
                mine = mine[:, :, : len(source)]
            np.testing.assert_allclose(mine[:, :width], expected, atol=1e-4)
            assert not mine[:, width:].any()
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-4)


def shapes_of_segments(graph: onnx.ModelProto, name: str, chosen: list[int]) -> np.ndarray:
    """The shape of the tensor `name` at the end of every segment."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    loop = next(node for node in copy.graph.node if node.name == "segments")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    body.node.append(helper.make_node("Shape", [name], ["segment_shape"]))
    body.output.append(helper.make_tensor_value_info("segment_shape", TensorProto.INT64, [None]))
    loop.output.append("segment_shapes")
    copy.graph.output.append(helper.make_tensor_value_info("segment_shapes", TensorProto.INT64, [None, None]))
    sources = padded([ROWS[row] for row in chosen]).numpy()
    (shapes,) = GraphSession(copy.SerializeToString(), threads=1).run(
        ["segment_shapes"], sources, LIMITS[chosen], beam_size=3, alpha=0.6, num_hypotheses=1
    )
    return shapes


@pytest.mark.parametrize("apart", [False, True])
def test_steps_compute_the_open_rows_alone(whole: onnx.ModelProto, apart: bool) -> None:
    shapes = shapes_of_segments(tiny_graph() if apart else whole, "segment_step_scores", [*range(len(ROWS))])
    steps, rows = shapes[:, 0], shapes[:, 1]
    ended_by_count = steps[:-1] == 8 + 64 // (3 * len(ROWS)) if apart else np.zeros(len(rows) - 1, bool)
    assert rows[0] == len(ROWS)
    assert ((rows[1:] <= rows[:-1] * 7 // 8) | ended_by_count).all()
    assert len(rows) > 3
    assert (steps * rows).sum() <= LIMITS.sum() * 8 / 7  # instead of rows times the longest


@pytest.mark.parametrize("chosen", [[*range(len(ROWS))], [1, 7], [1]])
def test_steps_copy_the_caches_of_a_segment_alone(chosen: list[int]) -> None:
    recent = shapes_of_segments(tiny_graph(), "state_0_key_reached", chosen)[:, 2]
    past = shapes_of_segments(tiny_graph(), "past_state_0_key_now", chosen)[:, 2]
    assert recent.max() <= 3 * (8 + 64 // (3 * len(chosen)))
    assert np.array_equal(past, 1 + np.cumsum(recent) - recent)
    assert past[-1] > 1


def test_a_search_with_the_past_apart_is_the_one_without(session: GraphSession, whole: onnx.ModelProto) -> None:
    assert not any("past" in name for name in names_read(whole.graph)), "it would not pay for so small a model"
    other = GraphSession(whole.SerializeToString(), threads=1)
    for controls in CONTROLS.values():
        found, expected = (search(one, [*range(len(ROWS))], controls) for one in (session, other))
        assert np.array_equal(found.target_ids, expected.target_ids)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.attention, expected.attention, atol=1e-4)


def test_what_is_worth_it_is_exported_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2tdeploy.export.forward.LEAST_APART", 1)
    assert names_read(export_beam_search(tiny_model()).graph) == names_read(tiny_graph().graph)


def test_large_models_keep_the_past_apart() -> None:
    with torch.device("meta"):
        models = [Transformer(hparams(), features(VOCAB)) for hparams in (transformer_small, transformer_base)]
    assert [is_worth_keeping_apart(model) for model in models] == [False, True]
