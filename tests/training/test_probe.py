"""What is tried before the first step, so that memory runs out at once: training, evaluation and search."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from t2tdeploy.errors import TrainingError
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training import evaluate as evaluate_module
from t2tdeploy.training import torch_engine
from t2tdeploy.training.torch_engine import TorchEngine
from t2tdeploy.training.trainer import train

from .conftest import QUICK, make_run


def test_training_is_probed_with_moments_and_all_accumulated_batches(
    tmp_path: Path, data: ProblemData, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    step = TorchEngine.step

    def watched(self: TorchEngine, batches: list[object], *, learning_rate: float) -> object:
        seen.append((len(batches), bool(self._optimizer.state)))
        return step(self, batches, learning_rate=learning_rate)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchEngine, "step", watched)
    train(make_run(tmp_path, data, data_dir, accumulate_steps=3, train_steps=1), data, QUICK)
    probes = seen[:-1]
    assert probes[:2] == [(3, False), (3, True)]
    assert all(copies == 3 for copies, _ in probes)


def _no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("place", ["evaluation_sums", "beam_search"])
def test_memory_that_an_evaluation_needs_runs_out_before_the_first_step(
    tmp_path: Path, data: ProblemData, data_dir: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(torch_engine if place == "evaluation_sums" else evaluate_module, place, _no_memory)
    run = make_run(tmp_path, data, data_dir)
    with pytest.raises(TrainingError, match="out of memory"):
        train(run, data, QUICK.replace(decode=True))
    assert not run.checkpoints.steps()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_smaller_batch_is_the_way_out_on_the_same_directory(
    tmp_path: Path, data: ProblemData, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large = make_run(tmp_path, data, data_dir)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_module, "beam_search", _no_memory)
        with pytest.raises(TrainingError):
            train(too_large, data, QUICK.replace(decode=True))
    smaller = make_run(tmp_path, data, data_dir, batch_size=64)
    assert smaller.hparams.batch_size == 64
    assert train(smaller, data, QUICK).step == 8
