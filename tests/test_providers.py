"""What onnxruntime is given for each kind of machine; TensorRT's part, with a CPU in the place of its engines."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from t2tdeploy import providers, runtime, tensorrt_engines
from t2tdeploy.errors import OperationalError
from t2tdeploy.providers import providers_of
from t2tdeploy.runtime import Session, available_targets
from t2tdeploy.tensorrt_engines import InputsProfile, Span

PROFILE = InputsProfile({"x": (Span(1, 2, 4), Span(1, 3, 9))})


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Twice its input, and how many rows a run has."""
    info, node = helper.make_tensor_value_info, helper.make_node
    nodes = [
        node("Add", ["x", "x"], ["y"]),
        node("Shape", ["x"], ["count"], start=0, end=1),
        node("Expand", ["count", "count"], ["rows"]),
    ]
    outputs = [info("y", TensorProto.INT64, ["batch", "length"]), info("rows", TensorProto.INT64, ["batch"])]
    content = helper.make_graph(nodes, "twice", [info("x", TensorProto.INT64, ["batch", "length"])], outputs)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(content, opset_imports=opset, ir_version=10), tmp_path / "graph.onnx")
    return tmp_path / "graph.onnx"


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TensorRT in name, and a CPU that does its work."""
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr(tensorrt_engines, "LIBRARIES", ("json",))
    monkeypatch.setattr(providers, "PROVIDERS", {**providers.PROVIDERS, "tensorrt": "CPUExecutionProvider"})
    monkeypatch.setattr(runtime, "PROVIDERS", providers.PROVIDERS)
    monkeypatch.setenv("T2TDEPLOY_CACHE", str(tmp_path / "cache"))


def test_every_target_has_the_cpu_to_fall_back_on(graph: Path) -> None:
    assert providers_of(graph, "cpu", None) == ["CPUExecutionProvider"]
    assert providers_of(graph, "cuda", None) == ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.usefixtures("_installed")
def test_tensorrt_is_given_its_profile_and_a_place_for_engines(graph: Path, tmp_path: Path) -> None:
    (name, options), *others = providers_of(graph, "tensorrt", PROFILE)
    assert (name, others) == (providers.PROVIDERS["tensorrt"], ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert options["trt_profile_max_shapes"] == "x:4x9"
    assert Path(options["trt_ep_context_file_path"]).parent == tmp_path / "cache" / "engines"


def test_without_tensorrt_what_to_install_is_said(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(OperationalError, match="TensorRT cannot be imported") as caught:
        Session(graph, target="tensorrt", profile=PROFILE)
    assert "pip install 'tensorrt>=10,<11'" in str(caught.value.help)


@pytest.mark.usefixtures("_installed")
def test_a_place_that_cannot_be_written_is_named(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("T2TDEPLOY_CACHE", str(tmp_path / "file"))
    with pytest.raises(OperationalError, match=r"cannot keep engines in .*file/engines") as caught:
        providers_of(graph, "tensorrt", PROFILE)
    assert "T2TDEPLOY_CACHE" in str(caught.value.help)


@pytest.mark.usefixtures("_installed")
@pytest.mark.filterwarnings("ignore::UserWarning")  # of onnxruntime, which has no CUDA
@pytest.mark.parametrize(("rows", "parts"), [(1, [1]), (4, [4] * 4), (10, [4] * 8 + [2] * 2)])
def test_a_batch_larger_than_the_engine_takes_runs_in_parts(graph: Path, rows: int, parts: list[int]) -> None:
    session = Session(graph, target="tensorrt", profile=PROFILE, threads=1)
    given = np.arange(rows * 3).reshape(rows, 3)
    doubled, counted = session.call(["y", "rows"], {"x": given})
    np.testing.assert_array_equal(doubled, 2 * given)
    assert counted.tolist() == parts


@pytest.mark.usefixtures("_installed")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_engine_that_is_not_built_damages_no_file(graph: Path) -> None:
    graph.write_bytes(b"no graph")
    with pytest.raises(OperationalError, match=r"TensorRT did not build an engine of .*graph\.onnx: "):
        Session(graph, target="tensorrt", profile=PROFILE)


@pytest.mark.parametrize(("found", "targets"), [(True, ["cpu", "cuda", "tensorrt"]), (False, ["cpu", "cuda"])])
def test_a_build_for_gpus_runs_tensorrt_only_where_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, found: bool, targets: list[str]
) -> None:
    built = SimpleNamespace(get_available_providers=lambda: list(providers.PROVIDERS.values()))
    monkeypatch.setattr(runtime, "import_onnxruntime", lambda: built)
    monkeypatch.setattr(runtime, "is_installed", lambda _: found)
    assert available_targets() == targets
