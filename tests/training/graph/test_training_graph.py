"""A training graph as files: read back as written, faults named, and of use without any code of ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from t2tdeploy.errors import CorruptFileError
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.graph.environment import PORTABLE, choose_gradient_builder
from t2tdeploy.training.graph.training_graph import EVALUATION, MANIFEST, TRAINING, TrainingGraph
from tests.policy.source import ROOT
from tests.training.conftest import DROPOUT, TINY, new_model


@pytest.fixture(scope="module")
def folder(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of engine ort leaves in its directory."""
    folder = tmp_path_factory.mktemp("run") / "training_graph"
    hparams = TINY.replace(**DROPOUT)
    make_engine("ort", new_model(open_problem("reverse_letters", data_dir), hparams), hparams, graph_directory=folder)
    return folder


def test_files_are_read_back_as_written(folder: Path, tmp_path: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {TRAINING, EVALUATION, MANIFEST}
    graph = TrainingGraph.load(folder)
    graph.save(tmp_path / "copy")
    again = TrainingGraph.load(tmp_path / "copy")
    assert again.manifest == graph.manifest
    for name in (TRAINING, EVALUATION, MANIFEST):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("name", [TRAINING, EVALUATION, MANIFEST])
@pytest.mark.parametrize("fault", ["missing", "cut", "empty"])
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, name: str, fault: str) -> None:
    TrainingGraph.load(folder).save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if fault != "missing":
        (tmp_path / name).write_bytes(content[: len(content) // 2] if fault == "cut" else b"")
    with pytest.raises(CorruptFileError, match=name):
        TrainingGraph.load(tmp_path)


def test_another_format_is_refused(folder: Path, tmp_path: Path) -> None:
    TrainingGraph.load(folder).save(tmp_path)
    record = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**record, "format_version": 99}))
    with pytest.raises(CorruptFileError, match="format version 99"):
        TrainingGraph.load(tmp_path)


AFTERWARDS = """
import sys

after, *_ = session.run(names, {**batch, **parameters, **masks, **scale})
evaluation = onnxruntime.InferenceSession(folder / "evaluation.onnx")
evaluation.run(None, {**batch, **parameters})
assert not {"torch", "onnx", "t2tdeploy"} & set(sys.modules)
print(json.dumps([float(loss / labels), float(after / labels)]))
"""


@pytest.mark.skipif(choose_gradient_builder("auto") != PORTABLE, reason="the example is of the portable builder")
def test_the_documented_example_trains_without_our_code(folder: Path) -> None:
    """Only json, NumPy and onnxruntime: one step of gradient descent lowers the loss."""
    page = (ROOT / "docs/training-graph.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert "runs/dates/training_graph" in example
    program = example.replace("runs/dates/training_graph", str(folder)) + AFTERWARDS
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert after < before
    assert not done.stderr, "onnxruntime has nothing to complain of"
