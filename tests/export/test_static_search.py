"""Laws of the search with fixed sizes: the same answers as the search that grows, whatever is asked of it; a step more
changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto

from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.errors import OperationalError, RequestError
from t2tdeploy.export.half import halved
from t2tdeploy.export.static_search import export_static_search
from t2tdeploy.export.tensorrt_operators import refusals
from t2tdeploy.export.verify import verify
from t2tdeploy.models.backtrace import SearchResult
from t2tdeploy.models.beam_search import SearchOptions, beam_search
from t2tdeploy.models.model import Model
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.sentences import pad_rows
from tests.export.graphs import CONTROLLED, STATIC, STATIC_VOCAB, static_graph, static_model
from tests.models.test_static import as_tensors
from tests.models.tiny import HPARAMS, features, padded, random_sources

torch.set_num_threads(1)
VOCAB = STATIC_VOCAB
ASKED = {"beam_size": STATIC.beam_size, "alpha": STATIC.alpha, "num_hypotheses": STATIC.num_hypotheses}
OPTIONS = SearchOptions(**ASKED)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return static_model()


@pytest.fixture(scope="module")
def graph() -> ModelProto:
    return static_graph()


@pytest.fixture(scope="module")
def controlled() -> ModelProto:
    return static_graph(CONTROLLED)


class Session:
    """As runtime.GraphSession, of a graph whose options are fixed."""

    def __init__(self, graph: ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def search(
        self, source_ids: np.ndarray, max_length: np.ndarray, *, controls: SearchControls = NO_CONTROLS, **fixed: float
    ) -> SearchResult:
        assert fixed in ({}, ASKED)
        assert controls == NO_CONTROLS
        return SearchResult(*self._session.run(None, {"source_ids": source_ids, "max_length": max_length}))


@pytest.fixture(scope="module")
def session(graph: ModelProto) -> Session:
    return Session(graph)


def assert_same(found: SearchResult, expected: SearchResult) -> None:
    """Equal, but for PAD behind."""
    for name, ours, theirs in zip(SearchResult._fields, found, expected, strict=True):
        theirs = np.asarray(theirs)
        if ours.ndim > 2:
            width = min(ours.shape[2], theirs.shape[2])
            assert not any(part[:, :, width:].any() for part in (ours, theirs)), name
            ours, theirs = ours[:, :, :width], theirs[:, :, :width]
        if ours.ndim > 3:
            width = min(ours.shape[3], theirs.shape[3])
            ours, theirs = ours[:, :, :, :width], theirs[:, :, :, :width]
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0 if ours.dtype == np.float32 else 1e-9, err_msg=name)


@given(seed=st.integers(0, 1000), extra=st.integers(1, STATIC.extra_length), count=st.integers(1, 7))
@settings(max_examples=25)
def test_it_is_the_search_that_grows(model, session, seed, extra, count):
    rows = random_sources(VOCAB, seed, count)
    limits = torch.tensor([len(row) + extra for row in rows])
    expected = beam_search(model, padded(rows), limits, OPTIONS)
    assert_same(session.search(pad_rows(rows), limits.numpy()), SearchResult(*expected))


def test_it_is_the_oracle(model, session):
    report = verify(model, session, random_sources(VOCAB, seed=5, count=4), extra_length=4, **ASKED)
    assert report.identical == 4


def test_a_result_does_not_depend_on_batch_and_padding(session):
    rows = random_sources(VOCAB, seed=8, count=9)
    limits = np.array([len(row) + 5 for row in rows])
    together = session.search(np.pad(pad_rows(rows), ((0, 0), (0, 3))), limits)
    for i, row in enumerate(rows):
        alone = session.search(pad_rows([row]), limits[i : i + 1])
        assert_same(SearchResult(*(part[i : i + 1] for part in together)), alone)


def test_all_controls_are_those_of_the_search_that_grows(model, controlled):
    rows = random_sources(VOCAB, seed=3, count=7)
    limits = torch.tensor([len(row) + 5 for row in rows])
    options = replace(OPTIONS, patience=CONTROLLED.controls.patience)
    expected = beam_search(model, padded(rows), limits, options, as_tensors(CONTROLLED, limits))
    found = Session(controlled).search(pad_rows(rows), limits.numpy())
    assert_same(found, SearchResult(*expected))
    assert (found.target_ids[:, :, 0] == CONTROLLED.prefix[0]).all()
    assert not np.isin(found.target_ids, CONTROLLED.controls.suppressed).any()


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def endless(graph: ModelProto) -> ModelProto:
    """The same with a Loop that runs to its trip count, as it would if its condition came too late."""
    copy = ModelProto()
    copy.CopyFrom(graph)
    (loop,) = (node for node in copy.graph.node if node.op_type == "Loop")
    body = loop.attribute[0].g
    body.node.append(onnx.helper.make_node("Identity", ["condition"], ["on_and_on"]))
    body.output[0].name = "on_and_on"
    return copy


@pytest.mark.parametrize("which", ["graph", "controlled"])
def test_a_step_after_the_last_changes_nothing(which: str, request: pytest.FixtureRequest):
    graph = request.getfixturevalue(which)
    rows = random_sources(VOCAB, seed=4, count=9)
    limits = np.array([2, *(len(row) + 3 for row in rows[1:])])
    some, all_of_them = Session(graph), Session(endless(graph))
    assert_same(all_of_them.search(pad_rows(rows), limits), some.search(pad_rows(rows), limits))


def test_a_row_has_no_more_steps_than_the_loop(session):
    rows = random_sources(VOCAB, seed=2, count=3)
    room = max(map(len, rows)) + STATIC.extra_length
    assert_same(
        session.search(pad_rows(rows), np.full(3, room + 50)),
        session.search(pad_rows(rows), np.full(3, room)),
    )


def test_tensorrt_has_its_operators(graph, controlled):
    assert refusals(graph) == refusals(controlled) == refusals(halved(graph)) == []
    assert not {node.op_type for node in nodes_of(controlled.graph)} & {"If", "NonZero", "Mod"}


def test_what_is_not_asked_is_not_in_the_graph(graph, controlled):
    counts = [sum(1 for _ in nodes_of(one.graph)) for one in (graph, controlled)]
    assert counts[0] < counts[1]
    assert not {node.op_type for node in nodes_of(graph.graph)} & {"ScatterElements", "Log"}


def test_half_precision_finds_the_same_where_it_is_clear(graph, session):
    rows = random_sources(VOCAB, seed=6, count=6)
    limits = np.array([len(row) + 4 for row in rows])
    half, full = Session(halved(graph)).search(pad_rows(rows), limits), session.search(pad_rows(rows), limits)
    np.testing.assert_allclose(half.scores[:, 0], full.scores[:, 0], atol=0.02)
    kept = next(node for node in halved(graph).graph.node if node.op_type == "Loop").attribute[0].g
    types = {value.name: value.type.tensor_type.elem_type for value in kept.input}
    assert types["state_0_key"] == onnx.TensorProto.FLOAT16
    assert types["beam_alive_scores"] == onnx.TensorProto.FLOAT


def test_a_state_that_grows_by_position_is_refused():
    class Uncached(Transformer):
        memory_axes, state_axes = Model.memory_axes, Model.state_axes
        encode, initial_state, decode_step = Model.encode, Model.initial_state, Model.decode_step

    with pytest.raises(OperationalError, match="Uncached: state_prefix_ids has the axis target_length"):
        export_static_search(Uncached(HPARAMS, features(VOCAB)), STATIC)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"num_hypotheses": 5}, "num_hypotheses: 5 is not between 1 and the beam_size of 4"),
        ({"extra_length": 0}, "extra_length: 0 is less than 1"),
        ({"controls": SearchControls(temperature=0.7)}, "temperature: 0.7: a search of fixed sizes does not sample"),
        ({"controls": SearchControls(suppressed=(40,))}, "suppressed: 40 is not an id of the target vocabulary, 0 to"),
        ({"prefix": (-1,)}, "prefix: -1 is not an id of the target vocabulary"),
        ({"beam_size": 21}, "beam_size: 21 is more than half the target vocabulary of 40"),
    ],
)
def test_what_cannot_be_is_named(model, wishes, message):
    with pytest.raises(RequestError, match=message):
        export_static_search(model, replace(STATIC, **wishes))
