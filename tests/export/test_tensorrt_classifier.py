"""TensorRT builds the graphs of models that classify or regress, where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from t2tdeploy.errors import RequestError
from t2tdeploy.export.half import halved
from t2tdeploy.export.single_pass import export_single_pass
from t2tdeploy.export.tensorrt import Span, build_engine, profile_of
from t2tdeploy.tensorrt_engines import gpu_name
from tests.models.labelled import CASES, random_batch

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
SPANS = {"batch": Span(1, 4, 16), "source_length": Span(1, 12, 40), "text_length": Span(1, 8, 40)}


def graph_of(name: str) -> onnx.ModelProto:
    model = CASES[name].make().eval()
    return export_single_pass(model, random_batch(model.features, rows=5))


def spans(graph: onnx.ModelProto) -> dict[str, Span]:
    axes = {axis.dim_param for one in graph.graph.input for axis in one.type.tensor_type.shape.dim}
    return {name: span for name, span in SPANS.items() if name in axes}


@pytest.mark.skipif(gpu_name() is not None, reason="builds for no GPU, but there is one")
@pytest.mark.parametrize("name", CASES)
def test_every_model_is_built(name: str, tmp_path: Path) -> None:
    graph = graph_of(name)
    onnx.save(graph, tmp_path / "graph.onnx")
    engine = build_engine(tmp_path / "graph.onnx", tmp_path / "engines", profile_of(graph, **spans(graph)))
    assert engine.built
    assert engine.path.stat().st_size > 1000


@pytest.mark.skipif(gpu_name() is not None, reason="builds for no GPU, but there is one")
@pytest.mark.parametrize("name", ["transformer_encoder", "resnet"])
def test_so_it_is_in_float16(name: str, tmp_path: Path) -> None:
    graph = halved(graph_of(name))
    assert {tensor.data_type for tensor in graph.graph.initializer} >= {onnx.TensorProto.FLOAT16}
    onnx.save(graph, tmp_path / "graph.onnx")
    assert build_engine(tmp_path / "graph.onnx", tmp_path / "engines", profile_of(graph, **spans(graph))).built


def test_a_profile_wants_every_axis_and_no_other() -> None:
    graph = graph_of("bag_of_embeddings")
    assert profile_of(graph, **spans(graph)).shapes()["opt"] == {"inputs_ids": (4, 12)}
    with pytest.raises(RequestError, match="batch given; the graph has batch, source_length"):
        profile_of(graph, batch=Span(1, 2, 3))
    with pytest.raises(RequestError, match="batch, length given"):
        profile_of(graph, batch=Span(1, 2, 3), length=Span(1, 2, 3))
