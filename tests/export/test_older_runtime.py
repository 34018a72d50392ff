"""The promise of the head of export/forward.py: onnxruntime 1.19 runs the graph, with the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.runtime import GraphSession
from tests.export.graphs import tiny_graph, tiny_model
from tests.models.tiny import padded, random_sources

OLDEST = "onnxruntime==1.19.2"
RUN = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
with numpy.load(sys.argv[2]) as feeds:
    outputs = session.run(None, dict(feeds))
print(json.dumps([onnxruntime.__version__, *(output.tolist() for output in outputs)]))
"""
NOTHING = """
import sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = dict(alpha=np.array(0.6, np.float32), num_hypotheses=np.array(1))
for rows, beam in ((0, 4), (2, 0), (2, -1)):
    ids, limits = np.full((rows, 3), 7), np.full(rows, 5)
    try:
        session.run(None, dict(source_ids=ids, max_length=limits, beam_size=np.array(beam), **given))
    except Exception as error:
        print(error)
"""


@pytest.fixture(scope="module")
def older_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnxruntime")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), OLDEST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {OLDEST}: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def run(code: str, *files: Path, older: Path | None = None) -> str:
    """What a process prints that has onnxruntime from `older`, if given."""
    paths = {} if older is None else {"PYTHONPATH": str(older)}
    command = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **paths}, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("version", ["oldest", "current"])
def test_to_ask_for_nothing_is_an_error_and_no_death(
    version: str, apart: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    onnx.save(tiny_graph() if apart else export_beam_search(tiny_model()), tmp_path / "model.onnx")
    older = request.getfixturevalue("older_runtime") if version == "oldest" else None
    errors = run(NOTHING, tmp_path / "model.onnx", older=older).splitlines()
    failed = [line for line in errors if "Non-zero status code" in line]
    assert len(failed) == 3
    named = ["'there_must_be_a_source_and_a_beam'" in line for line in failed]
    # 1.19 may come upon the longest of no lengths first, which is an error there.
    assert all(named[1:] if version == "oldest" else named)


def test_the_oldest_supported_runtime_gives_the_same_answers(older_runtime: Path, tmp_path: Path):
    graph = tiny_graph()
    onnx.save(graph, tmp_path / "model.onnx")
    rows = random_sources(40, seed=2, count=6)
    limits = np.array([len(row) + 5 for row in rows])
    np.savez(
        tmp_path / "feeds.npz",
        source_ids=padded(rows).numpy(),
        max_length=limits,
        beam_size=np.array(4),
        alpha=np.array(0.6, np.float32),
        num_hypotheses=np.array(2),
    )
    answer = run(RUN, tmp_path / "model.onnx", tmp_path / "feeds.npz", older=older_runtime)
    version, target_ids, scores, lengths, finished, token_scores, attention = json.loads(answer)
    assert version == OLDEST.partition("==")[2]
    here = GraphSession(graph.SerializeToString(), threads=1).search(
        padded(rows).numpy(), limits, beam_size=4, alpha=0.6, num_hypotheses=2
    )
    assert target_ids == here.target_ids.tolist()
    assert lengths == here.lengths.tolist()
    assert finished == here.finished.tolist()
    np.testing.assert_allclose(np.array(scores), here.scores, atol=1e-4)
    np.testing.assert_allclose(np.array(token_scores), here.token_scores, atol=1e-4)
    np.testing.assert_allclose(np.array(attention), here.attention, atol=1e-4)
