"""What goes wrong in the middle of a training run: full disks, damaged files, foreign parameters, a wrong environment.

Each ends with a sentence and what to do about it, leaves what was there intact, and the run goes on afterwards; or it
is put right on the way, and said.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from t2tdeploy.files import is_leftover
from t2tdeploy.training.checkpoints import verify
from t2tdeploy.training.graph.cache import default_directory
from tests.integration.commands import ENVIRONMENT, fail, succeed
from tests.integration.conftest import HPARAMS, Command, Fails, Road, train_arguments
from tests.limits import no_file_larger_than

SMALLER = HPARAMS.replace("hidden_size=32", "hidden_size=16")


@pytest.fixture
def at_20(road: Road, tmp_path: Path) -> Path:
    """A copy of the run as it was at step 20 of 40; it may be damaged."""
    run = Path(shutil.copytree(road.run, tmp_path / "run"))
    for step in (30, 40):
        shutil.rmtree(run / f"checkpoints/step-{step:08d}")
    return run


def small(road: Road, run: Path, *more: str, hparams: str) -> list[str | Path]:
    """A run of one step."""
    return [*train_arguments(road.folder, run, steps=1), "--no-decode", "--hparams", hparams, *more]


def leftovers(run: Path) -> list[Path]:
    return [path for path in run.rglob(".*") if is_leftover(path)]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Disks


def test_no_room_for_a_checkpoint(road: Road, at_20: Path) -> None:
    checkpoints, words = at_20 / "checkpoints", train_arguments(road.folder, at_20, steps=40)
    with no_file_larger_than((checkpoints / "step-00000020/optimizer.safetensors").stat().st_size - 1):
        outcome = fail(*words)
    assert outcome.status == 1
    assert f"error: checkpoint {checkpoints / 'step-00000030'} cannot be written: File too large" in outcome.stderr
    assert "help: make room" in outcome.stderr
    assert "goes on from step-00000020" in outcome.stderr
    assert not leftovers(at_20)
    assert sorted(path.name for path in checkpoints.glob("step-*")) == ["step-00000010", "step-00000020"]
    verify(checkpoints / "step-00000020")
    assert "resuming from step 20" in succeed(*words).stderr
    last = "checkpoints/step-00000040"
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (at_20 / last / file).read_bytes() == (road.run / last / file).read_bytes()


def test_no_room_for_anything(road: Road, at_20: Path) -> None:
    with no_file_larger_than(100):
        outcome = fail(*train_arguments(road.folder, at_20, steps=50))
    assert outcome.status == 1
    assert f"error: {at_20 / 'run.json'}: File too large" in outcome.stderr
    assert "help: check the path, its permissions and the free space" in outcome.stderr
    assert not leftovers(at_20)
    verify(at_20 / "checkpoints/step-00000020")


# Checkpoints


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_the_newest_checkpoint_is_damaged(road: Road, at_20: Path, name: str, fails: Fails, run: Command) -> None:
    newest = at_20 / "checkpoints/step-00000020"
    if name == "state.json":
        (newest / name).write_text("{")
    else:
        flip(newest / name)
    words = train_arguments(road.folder, at_20, steps=11)
    fails(1, words, f"{newest / name} is damaged: ", f"help: delete {newest} to go on from step-00000010")
    shutil.rmtree(newest)
    outcome = run(*words)
    assert outcome.status == 0, outcome.stderr
    assert "resuming from step 10" in outcome.stderr


def test_a_checkpoint_of_another_model(road: Road, at_20: Path, tmp_path: Path, fails: Fails, run: Command) -> None:
    other = tmp_path / "other"
    assert run(*small(road, other, "--engine", "torch", hparams=SMALLER)).status == 0
    shutil.copytree(other / "checkpoints/step-00000001", at_20 / "checkpoints/step-00000030")
    words = train_arguments(road.folder, at_20, steps=40)
    fails(2, words, "this checkpoint is of another model: ", "of other shapes: ", "help: use the model and hparams")
    verify(at_20 / "checkpoints/step-00000020")
    words = small(road, tmp_path / "warm", "--engine", "torch", hparams=HPARAMS)
    outcome = run(*words, "--warm-start", other)  # takes what fits, and says what does not
    assert outcome.status == 0
    assert f"warm start from {other}: " in outcome.stderr
    assert "of other shapes: " in outcome.stderr
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    words = [*small(road, tmp_path / "cold", "--engine", "torch", hparams=HPARAMS), "--warm-start"]
    no_parameter = "no parameter of the checkpoint fits the model by name and shape"
    fails(2, [*words, tmp_path / "foreign.safetensors"], no_parameter, "help: start from")


# The training graph


@pytest.fixture
def cache(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own that holds the run's training graph; returns the entry."""
    graph = (road.run / "training_graph/training.onnx").read_bytes()
    entries = [path.parent for path in default_directory().glob("*/training.onnx") if path.read_bytes() == graph]
    entry = max(entries, key=lambda path: (path / "entry.json").stat().st_mtime)  # an older one may be of older code
    monkeypatch.setenv("T2TDEPLOY_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(entry, default_directory() / entry.name))


def test_a_damaged_graph_in_the_cache_is_built_again(road: Road, at_20: Path, cache: Path, run: Command) -> None:
    sound = (cache / "training.onnx").read_bytes()
    outcome = run(*train_arguments(road.folder, at_20, steps=21))
    assert outcome.status == 0
    assert "building the training graph" not in outcome.stderr
    flip(cache / "training.onnx")
    outcome = run(*train_arguments(road.folder, at_20, steps=22))
    assert outcome.status == 0, outcome.stderr
    assert f"the cached training graph {cache} is damaged (training.onnx: wrong checksum)" in outcome.stderr
    assert "it will be built again" in outcome.stderr
    assert "building the training graph" in outcome.stderr
    assert (cache / "training.onnx").read_bytes() == (at_20 / "training_graph/training.onnx").read_bytes() == sound


def test_a_damaged_graph_in_the_run_directory_is_written_again(road: Road, at_20: Path, run: Command) -> None:
    folder = at_20 / "training_graph"
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    flip(folder / "training.onnx")
    (folder / "manifest.json").write_text("{")
    assert run(*train_arguments(road.folder, at_20, steps=21)).status == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == sound


def test_a_cache_that_cannot_be_written(
    road: Road, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # permissions would not stop root
    monkeypatch.setenv("T2TDEPLOY_CACHE", str(tmp_path / "file"))
    outcome = run(*small(road, tmp_path / "run", hparams=SMALLER))
    assert outcome.status == 0, outcome.stderr
    assert f"the training graph was not kept in {tmp_path / 'file'}/graphs: Not a directory" in outcome.stderr
    assert (tmp_path / "run/training_graph/training.onnx").is_file()
    assert (tmp_path / "run/checkpoints/step-00000001").is_dir()


# The environment


def test_two_builds_of_onnxruntime(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "onnxruntime_gpu-1.19.0.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.19.0\n")
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", str(tmp_path))
    words = small(road, tmp_path / "run", hparams=HPARAMS)
    outcome = fail(*words)
    assert outcome.status == 1
    assert "onnxruntime-gpu==1.19.0 are installed in one environment" in outcome.stderr
    assert "help: remove all and install one again: pip uninstall -y " in outcome.stderr
    succeed(*words, "--engine", "torch")  # the same run directory: nothing was lost in it


def test_a_provider_is_missing(road: Road, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fails(1, small(road, tmp_path / "run", hparams=HPARAMS), "cannot run on cuda; it has ", "help: install the CUDA")


def test_a_gradient_builder_that_is_not_here(road: Road, tmp_path: Path, fails: Fails) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if hasattr(onnxruntime.capi._pybind_state, "GradientGraphBuilder"):
        pytest.skip("this is onnxruntime-training")
    words = small(road, tmp_path / "run", "--gradient-builder", "onnxruntime-training", hparams=HPARAMS)
    fails(1, words, "gradient builder onnxruntime-training is not in this environment", "help: it needs an environment")


def test_engines_and_what_they_cannot_do(road: Road, tmp_path: Path, fails: Fails) -> None:
    words = small(road, tmp_path / "run", hparams=HPARAMS)
    fails(2, [*words, "--engine", "foo"], "'foo' is not one of 'auto', 'ort', 'torch'", "help: ")
    fails(2, [*words, "--engine", "tensorflow"], "'tensorflow' is not one of", "help: ")
    choices = "'auto', 'portable', 'onnxruntime-training'"
    fails(2, [*words, "--gradient-builder", "foo"], f"'foo' is not one of {choices}", "help: ")
    if not torch.cuda.is_available():
        bfloat16 = small(road, tmp_path / "run", hparams=f"{HPARAMS},precision=bfloat16")
        fails(2, bfloat16, "precision = bfloat16", "--engine torch")
