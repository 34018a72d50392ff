"""An evaluation that fails, or is killed, loses nothing: its checkpoint is there, and it is done again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from t2tdeploy.errors import SettingsError, TrainingError, UserError
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training import quality as quality_module
from t2tdeploy.training.checkpoints import read_state, verify
from t2tdeploy.training.evaluate import EvaluationReport
from t2tdeploy.training.meter import Meter
from t2tdeploy.training.options import TrainOptions
from t2tdeploy.training.run_directory import RunDirectory
from t2tdeploy.training.summaries import read_metrics
from t2tdeploy.training.trainer import Ending, train

from .conftest import QUICK, make_run
from .test_trainer import Killed, Listener, kill, tensors


def lines(run: RunDirectory) -> list[tuple[str, int, float]]:
    return [(line["group"], line["step"], line["loss"]) for line in read_metrics(run.path)]


def failing_evaluation(*_: Any, **__: Any) -> EvaluationReport:
    raise TrainingError("out of memory")


@pytest.mark.parametrize("step", [4, 8])  # in the middle, and the last of all
def test_an_evaluation_that_fails_loses_no_step_and_is_done_again(
    tmp_path: Path, data: ProblemData, data_dir: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    straight = make_run(tmp_path / "straight", data, data_dir)
    train(straight, data, QUICK)

    run = make_run(tmp_path / "failing", data, data_dir)
    options = QUICK.replace(eval_every_steps=step)  # and saves every 4 steps, as the straight run does
    with monkeypatch.context() as patch:
        patch.setattr(quality_module, "evaluate", failing_evaluation)
        with pytest.raises(TrainingError):
            train(run, data, options)
    assert run.checkpoints.steps()[-1] == step
    train(run, data, options)
    expected = [line for line in lines(straight) if line[0] == "train" or step == 4 or line[1] == 8]
    assert lines(run) == expected
    assert run.checkpoints.best_step() == 8
    assert all((tensor == tensors(straight, 8)[name]).all() for name, tensor in tensors(run, 8).items())


DIVERGING = {"optimizer": "adam", "learning_rate_constant": 1e30}  # one step is enough


@pytest.mark.parametrize("decode", [False, True])
def test_an_evaluation_of_a_model_that_diverged_says_so_each_time(
    tmp_path: Path, data: ProblemData, data_dir: Path, decode: bool
) -> None:
    run = make_run(tmp_path, data, data_dir, train_steps=1, **DIVERGING)
    for _ in range(2):  # the second time it is what was left to do
        with pytest.raises(TrainingError, match=r"step 1: the evaluation's loss is (nan|inf)") as error:
            train(run, data, QUICK.replace(decode=decode, eval_sentences=2))
        assert "learning_rate_constant" in (error.value.help or "")
    assert run.checkpoints.best_step() is None
    longer = make_run(tmp_path, data, data_dir, train_steps=2, **DIVERGING)
    with pytest.raises(TrainingError, match="step 1: the evaluation's loss"):
        train(longer, data, QUICK.replace(decode=decode, eval_sentences=2))


def test_a_model_that_diverged_has_earlier_checkpoints_to_go_back_to(
    tmp_path: Path, data: ProblemData, data_dir: Path
) -> None:
    settings = {"optimizer": "adam", "learning_rate_schedule": "exp_decay", "learning_rate_warmup_steps": 1}
    settings |= {"learning_rate_decay_rate": 1e30, "learning_rate_decay_steps": 1, "train_steps": 2}
    run = make_run(tmp_path, data, data_dir, **settings)
    with pytest.raises(TrainingError, match="step 2: the evaluation's loss") as error:
        train(run, data, QUICK.replace(save_every_steps=1))
    assert str(run.checkpoints.path(1)) in (error.value.help or "")


def test_killed_after_an_evaluation_was_reported_it_has_one_point(
    tmp_path: Path, data: ProblemData, data_dir: Path
) -> None:
    class KilledAtEvaluation(Listener):
        def event(self, name: str, **fields: Any) -> None:
            if name == "evaluation":
                kill()

    run = make_run(tmp_path, data, data_dir)
    with pytest.raises(Killed):
        train(run, data, QUICK, KilledAtEvaluation())
    train(run, data, QUICK)
    assert [step for group, step, _ in lines(run) if group == "evaluation"] == [4, 8]


def test_what_an_evaluation_found_is_in_the_checkpoint_of_its_step(
    tmp_path: Path, data: ProblemData, data_dir: Path
) -> None:
    run = make_run(tmp_path, data, data_dir)
    result = train(run, data, QUICK)
    for step in (4, 8):
        verify(run.checkpoints.path(step))
    state = read_state(run.checkpoints.path(8))
    assert state.best == result.best
    assert not state.evaluation_due


def test_without_a_dev_split_nothing_is_evaluated_and_nothing_asked_of_evaluations(
    tmp_path: Path, data: ProblemData, data_dir: Path
) -> None:
    splits = {name: split for name, split in data.record.splits.items() if name != "dev"}
    data.record = data.record.model_copy(update={"splits": splits})
    run = make_run(tmp_path, data, data_dir)
    for asked in ({"metric": "loss"}, {"early_stopping_evals": 2}, {"eval_sentences": 3}):
        ((name, value),) = asked.items()
        with pytest.raises(UserError, match=f"^{name} = {value}: the data have no dev split"):
            train(run, data, QUICK.replace(**asked))
    assert train(run, data, QUICK).best is None


def test_a_metric_of_translations_needs_translations() -> None:
    for metric in ("bleu", "chrf"):
        with pytest.raises(SettingsError, match="decode"):
            TrainOptions.create({"metric": metric, "decode": False})
    assert TrainOptions.create({"metric": "accuracy", "decode": False}).deciding_metric("translate") == "accuracy"


def test_a_signal_after_everything_due_was_done_is_saved(
    tmp_path: Path, data: ProblemData, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, data, data_dir)
    monkeypatch.setattr(Meter, "pause", lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # the last act of a step
    result = train(run, data, QUICK)
    assert (result.ending, result.step) == (Ending.INTERRUPTED, 1)
    assert run.checkpoints.steps() == [1]


def test_a_signal_before_the_first_step_is_an_interruption(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    class Early(Listener):
        def task(self, *arguments: Any, **names: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().task(*arguments, **names)

    run = make_run(tmp_path, data, data_dir)
    result = train(run, data, QUICK, Early())
    assert (result.ending, result.step) == (Ending.INTERRUPTED, 0)
    assert json.loads((result.checkpoint / "state.json").read_text())["training"]["step"] == 0
    assert train(run, data, QUICK).ending is Ending.FINISHED
