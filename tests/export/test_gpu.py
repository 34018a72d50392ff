"""Graphs on onnxruntime's CUDA provider answer as on the CPU, to the rounding of its arithmetic (TF32)."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.decoding import SearchControls
from t2tdeploy.errors import OperationalError
from t2tdeploy.export.half import halved
from t2tdeploy.export.placement import serialized
from t2tdeploy.export.single_pass import export_single_pass, graph_input, inputs_of
from t2tdeploy.export.tensorrt_variant import TensorRTOptions, search_profile
from t2tdeploy.runtime import GraphSession, Session, available_targets
from tests.export.graphs import TINY_VOCAB, static_byte_graph, tiny_graph
from tests.models.labelled import CASES, random_batch
from tests.models.tiny import padded, random_sources

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU"),
]
S = TypeVar("S", bound=Session)
ROWS = random_sources(TINY_VOCAB, seed=8, count=13)
LIMITS = np.array([2, 30, 5, 11, 3, 7, 1, 22, 4, 9, 16, 6, 13])  # rows leave the batch one after the other
CONTROLS = {
    "plain": SearchControls(),
    "patience": SearchControls(patience=1.0),
    "sampling": SearchControls(temperature=0.8, top_k=9, top_p=0.9, seed=3),
    "constrained": SearchControls(
        suppressed=(7,), repetition_penalty=1.3, no_repeat_ngram_size=2, coverage_penalty=0.2
    ),
}


def on_target(kind: type[S], content: bytes, target: str) -> S:
    """A session there; skips where onnxruntime has no such provider."""
    try:
        return kind(content, target=target)
    except OperationalError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["float32", "float16"])
def sessions(request: pytest.FixtureRequest) -> tuple[GraphSession, GraphSession]:
    """The search on the GPU and on the CPU."""
    graph = tiny_graph() if request.param == "float32" else halved(tiny_graph())
    return on_target(GraphSession, serialized(graph), "cuda"), GraphSession(serialized(tiny_graph()))


@pytest.mark.parametrize("controls", CONTROLS.values(), ids=CONTROLS)
def test_a_search_on_the_gpu_is_that_on_the_cpu(
    sessions: tuple[GraphSession, GraphSession], controls: SearchControls
) -> None:
    found, expected = (
        session.search(padded(ROWS).numpy(), LIMITS, beam_size=3, alpha=0.6, num_hypotheses=3, controls=controls)
        for session in sessions
    )
    assert np.array_equal(found.finished, expected.finished)
    most = 3 if controls.temperature else 1  # draws, or hypotheses of almost the same score, that rounding decides
    same = (found.target_ids[:, 0] == expected.target_ids[:, 0]).all(1)
    assert same.sum() >= len(ROWS) - most
    np.testing.assert_allclose(found.scores[same, 0], expected.scores[same, 0], atol=2e-2)


@pytest.mark.skipif("tensorrt" not in available_targets(), reason="no onnxruntime with TensorRT")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_engine_answers_as_the_cpu_also_in_parts(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2TDEPLOY_CACHE", str(tmp_path))
    static = static_byte_graph()
    path = tmp_path / "tensorrt.onnx"
    path.write_bytes(serialized(static if precision == "float32" else halved(static)))
    fixed = DecodeDefaults(beam_size=3, alpha=0.6, extra_length=5, max_source_length=40)
    profile = search_profile(TensorRTOptions(usual_batch_size=2, max_batch_size=4), fixed.max_source_length)
    engine = GraphSession(path, target="tensorrt", profile=profile, fixed=fixed)
    cpu = GraphSession(serialized(static), fixed=fixed)
    found, expected = (
        one.search(padded(ROWS).numpy(), LIMITS, beam_size=3, alpha=0.6, num_hypotheses=1) for one in (engine, cpu)
    )
    same = (found.target_ids[:, 0] == expected.target_ids[:, 0]).all(1)
    assert same.sum() >= len(ROWS) - 1  # rounding may decide between two of almost the same score
    np.testing.assert_allclose(found.scores[same, 0], expected.scores[same, 0], atol=2e-2)


@pytest.mark.parametrize("name", CASES)
def test_a_classifier_on_the_gpu_is_that_on_the_cpu(name: str) -> None:
    model = CASES[name].make().eval()
    batch = random_batch(model.features, rows=5)
    content = export_single_pass(model, batch).SerializeToString()
    feeds = {graph_input(spec): batch[feature] for feature, spec in inputs_of(model).items()}
    gpu, cpu = (on_target(Session, content, target) for target in ("cuda", "cpu"))
    for found, expected in zip(gpu.call(gpu.outputs, feeds), cpu.call(cpu.outputs, feeds), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-2, rtol=1e-2)
