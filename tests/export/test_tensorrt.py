"""TensorRT builds the whole search where there is no GPU; what it refuses, and what kills it, are errors."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from t2tdeploy.errors import CorruptFileError, InputError, OperationalError
from t2tdeploy.export import tensorrt
from t2tdeploy.export.half import halved
from t2tdeploy.export.tensorrt import Profile, Span, build_engine
from t2tdeploy.tensorrt_engines import gpu_name
from tests.export.graphs import CONTROLLED, static_graph

PROFILE = Profile(batch=Span(1, 4, 16), source_length=Span(1, 12, 40))

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
without_gpu = pytest.mark.skipif(gpu_name() is not None, reason="builds for no GPU, but there is one")


def saved(graph: ModelProto, folder: Path) -> Path:
    onnx.save(graph, folder / "graph.onnx")
    return folder / "graph.onnx"


def small(nodes: list[onnx.NodeProto]) -> ModelProto:
    """Inputs and outputs are those of a search; `nodes` make y of source_ids."""
    info = helper.make_tensor_value_info
    used = helper.make_node("Identity", ["max_length"], ["z"])
    graph = helper.make_graph(
        [*nodes, used],
        "small",
        [info("source_ids", TensorProto.INT64, ["batch", "length"]), info("max_length", TensorProto.INT64, ["batch"])],
        [info("y", TensorProto.INT64, None), info("z", TensorProto.INT64, None)],
        [numpy_helper.from_array(np.array([2]), "two")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


TWICE = small([helper.make_node("Mul", ["source_ids", "two"], ["y"])])


@without_gpu
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_whole_search_is_built_and_kept(precision: str, tmp_path: Path):
    """float16, and all controls."""
    path = saved(static_graph() if precision == "float32" else halved(static_graph(CONTROLLED)), tmp_path)
    engine = build_engine(path, tmp_path / "engines", PROFILE)
    assert engine.built
    assert engine.path.stat().st_size > 100_000
    described = json.loads(engine.path.with_suffix(".json").read_text())
    assert described["library"] == engine.platform.library
    assert described["profile"]["batch"] == {"smallest": 1, "usual": 4, "largest": 16}
    before = engine.path.stat().st_mtime_ns
    again = build_engine(path, tmp_path / "engines", PROFILE)
    assert (again.built, again.path) == (False, engine.path)
    assert again.path.stat().st_mtime_ns == before
    assert {file.suffix for file in (tmp_path / "engines").iterdir()} == {".engine", ".json"}


def test_an_operator_of_the_table_is_refused_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorrt, "_build", None)
    path = saved(small([helper.make_node("Unique", ["source_ids"], ["y"], name="odd")]), tmp_path)
    with pytest.raises(InputError, match="Unique 'odd': TensorRT does not have this operator"):
        build_engine(path, tmp_path / "engines", PROFILE)
    assert not (tmp_path / "engines").exists()


@without_gpu
def test_what_the_parser_refuses_is_told_in_its_words(tmp_path: Path):
    """A product of ids: the table has no types of operators."""
    node = helper.make_node("MatMul", ["source_ids", "source_ids"], ["y"], name="ids_times_ids")
    path = saved(small([node]), tmp_path)
    with pytest.raises(OperationalError, match=r"did not build .*graph.onnx: it refused the graph\n") as caught:
        build_engine(path, tmp_path / "engines", PROFILE)
    assert "ids_times_ids" in caught.value.message
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_file_that_is_no_graph_is_named(tmp_path: Path):
    (tmp_path / "graph.onnx").write_bytes(b"no graph at all")
    with pytest.raises(CorruptFileError, match=r"graph.onnx is damaged: not an ONNX file"):
        build_engine(tmp_path / "graph.onnx", tmp_path / "engines", PROFILE)


def test_a_graph_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing.onnx is not a file"):
        build_engine(tmp_path / "nothing.onnx", tmp_path / "engines", PROFILE)


def builder(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts `script` in the place of Python, as what runs the builder."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(tensorrt.sys, "executable", str(program))


def test_a_builder_that_dies_is_an_error_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = "; ".join(f"echo line {i}" for i in range(30))
    builder(f"echo $$ > {tmp_path}/pid; {lines}; exec sleep 60", tmp_path, monkeypatch)

    def kill() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGSEGV)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(OperationalError, match="its process died by SIGSEGV") as caught:
        build_engine(saved(TWICE, tmp_path), tmp_path / "engines", PROFILE)
    killer.join()
    assert "line 29" in caught.value.message
    assert "line 10" not in caught.value.message
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_builder_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    builder("echo still at it; exec sleep 60", tmp_path, monkeypatch)
    with pytest.raises(OperationalError, match=r"within 0.5 s\n  still at it") as caught:
        build_engine(saved(TWICE, tmp_path), tmp_path / "engines", PROFILE, seconds=0.5)
    assert "smaller largest batch" in str(caught.value.help)
    assert list((tmp_path / "engines").iterdir()) == []
