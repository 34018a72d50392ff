"""Laws of a whole run: it learns, resumes exactly, stops in every way it should."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from t2tdeploy.errors import CorruptFileError, TrainingError
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.progress import SilentReporter
from t2tdeploy.training.checkpoints import BestEvaluation, average_checkpoints, read_state
from t2tdeploy.training.options import TrainOptions
from t2tdeploy.training.run_directory import RunDirectory
from t2tdeploy.training.summaries import read_metrics
from t2tdeploy.training.trainer import Ending, train

from .conftest import DROPOUT, QUICK, make_run


class Listener(SilentReporter):
    """Keeps what is reported, and may act at a step."""

    def __init__(self, at_step: dict[int, Any] | None = None) -> None:
        self.messages: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._at_step = at_step or {}

    def message(self, text: str) -> None:
        self.messages.append(text)

    def event(self, name: str, **data: Any) -> None:
        self.events.append((name, data))
        if name == "training" and data["step"] in self._at_step:
            self._at_step[data["step"]]()


class Killed(BaseException):
    """As abrupt as a kill: no handler of the trainer knows it."""


def kill() -> None:
    raise Killed


def tensors(run: RunDirectory, step: int) -> dict[str, torch.Tensor]:
    path = run.checkpoints.path(step)
    return {**load_file(path / "model.safetensors"), **load_file(path / "optimizer.safetensors")}


def losses(run: RunDirectory) -> list[tuple[str, int, float]]:
    return [(line["group"], line["step"], line["loss"]) for line in read_metrics(run.path)]


@pytest.mark.parametrize(("engine", "optimizer"), [("torch", "adam"), ("torch", "adafactor"), ("ort", "adam")])
def test_a_killed_run_continues_bit_for_bit(
    tmp_path: Path, data: ProblemData, data_dir: Path, engine: str, optimizer: str
) -> None:
    """With dropout on, over three epochs, and with accumulation."""
    options = QUICK.replace(engine=engine)
    changes: dict[str, object] = {"optimizer": optimizer, "accumulate_steps": 2, "train_steps": 12, "batch_size": 512}
    changes |= DROPOUT
    straight = make_run(tmp_path / "straight", data, data_dir, **changes)
    train(straight, data, options)

    make_run(tmp_path / "killed", data, data_dir, **changes)
    with pytest.raises(Killed):
        train(RunDirectory.open(tmp_path / "killed"), data, options, Listener({10: kill}))
    torch.manual_seed(12345)  # whatever a new process would start with
    killed = make_run(tmp_path / "killed", data, data_dir, **changes)
    assert killed.checkpoints.steps()[-1] == 8
    listener = Listener()
    train(killed, data, options, listener)

    assert "resuming from step 8" in listener.messages
    assert not any("building the training graph" in text for text in listener.messages)
    assert losses(killed) == losses(straight)
    expected = tensors(straight, 12)
    assert tensors(killed, 12).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(killed, 12).items())


def test_a_finished_run_stays_as_it_is_until_prolonged(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    run = make_run(tmp_path, data, data_dir)
    train(run, data, QUICK)
    before = tensors(run, 8)
    assert train(run, data, QUICK).step == 8
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(run, 8).items())
    longer = make_run(tmp_path, data, data_dir, train_steps=12)
    assert train(longer, data, QUICK).step == 12


def test_prolonging_tells_of_the_learning_rate_that_changes(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    """Once: after another start the steps are those of the same schedule."""

    def told(train_steps: int, **changes: object) -> list[str]:
        listener = Listener()
        run = make_run(tmp_path / str(changes), data, data_dir, train_steps=train_steps, **changes)
        train(run, data, QUICK, listener)
        return [text for text in listener.messages if "learning rate" in text]

    decaying = {"learning_rate_schedule": "constant*linear_decay", "learning_rate_decay_steps": 8}
    assert [told(steps, **decaying) for steps in (8, 12, 12, 8)] == [
        [],
        [
            "train_steps is 12, not 8, and linear_decay of the learning rate depends on it: "
            "after 0.000125 in step 8 comes 0.0005"
        ],
        [],
        [],
    ], "nothing is trained with fewer"
    assert told(8) == told(12) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step(
    tmp_path: Path, data: ProblemData, data_dir: Path, number: signal.Signals
) -> None:
    handler = signal.getsignal(number)
    run = make_run(tmp_path, data, data_dir)
    result = train(run, data, QUICK, Listener({3: lambda: os.kill(os.getpid(), number)}))
    assert (result.stopped, result.step, result.ending) == (True, 3, Ending.INTERRUPTED)
    assert run.checkpoints.steps() == [3]
    assert signal.getsignal(number) is handler
    assert train(run, data, QUICK).ending is Ending.FINISHED


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    run = make_run(tmp_path, data, data_dir, optimizer="sgd", learning_rate_constant=1e30, accumulate_steps=2)
    with pytest.raises(TrainingError, match="step 2") as error:
        train(run, data, QUICK)
    file = tmp_path / "not-finite-step-00000002.npz"
    assert str(file) in error.value.message
    with np.load(file) as saved:
        assert (int(saved["step"]), int(saved["epoch"]), int(saved["batch"])) == (2, 0, 2)
        assert saved["inputs_0"].shape[0] == saved["targets_0"].shape[0]
        assert "targets_1" in saved


def test_early_stopping_waits_for_gains(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    run = make_run(tmp_path, data, data_dir, learning_rate_constant=1e-30, train_steps=1000)
    options = QUICK.replace(eval_every_steps=2, early_stopping_evals=3)
    result = train(run, data, options)
    assert result.ending is Ending.EARLY_STOPPING
    assert result.step == 8  # best at 2, then three without gain
    assert result.best is not None
    assert result.best.step == 8  # of equal evaluations the last
    assert train(run, data, options).step == 8


def test_a_damaged_checkpoint_stops_the_resumption(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    run = make_run(tmp_path, data, data_dir)
    train(run, data, QUICK)
    (run.checkpoints.path(8) / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CorruptFileError) as error:
        train(run, data, QUICK)
    assert "step-00000004" in (error.value.help or "")


def test_a_best_checkpoint_that_is_gone_is_no_rival(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    """As where a damaged one is deleted, and the one before remembers a best that was pruned since."""
    run = make_run(tmp_path, data, data_dir)
    train(run, data, QUICK)
    shutil.rmtree(run.checkpoints.path(8))
    gone = BestEvaluation(step=2, metric="loss", value=0.0)
    state = read_state(run.checkpoints.path(4))
    run.checkpoints.record(state.model_copy(update={"best": gone, "evaluations_without_gain": 2}))
    listener = Listener()
    result = train(run, data, QUICK.replace(early_stopping_evals=2), listener)
    assert "the best checkpoint, of step 2, is gone: which one is best is decided anew" in listener.messages
    assert (result.ending, result.step) == (Ending.FINISHED, 8)
    assert result.best is not None
    assert result.best.step == run.checkpoints.best_step() == 8


def test_warm_start_says_what_fits(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    first = make_run(tmp_path / "first", data, data_dir)
    train(first, data, QUICK)
    wider = make_run(
        tmp_path / "wider", data, data_dir, filter_size=48, num_decoder_layers=2, learning_rate_constant=1e-30
    )
    listener = Listener()
    train(wider, data, QUICK.replace(warm_start=tmp_path / "first"), listener)
    (said,) = [text for text in listener.messages if text.startswith("warm start")]
    assert "missing: decoder.1." in said
    assert "(32, 16), not (48, 16)" in said
    old, new = named(first), named(wider)
    kept = [name for name in new if name in old and new[name].shape == old[name].shape]
    assert kept
    assert all(torch.equal(old[name], new[name]) for name in kept)


def named(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint_path("last") / "model.safetensors")


def test_a_small_transformer_learns_to_reverse(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    run = make_run(
        tmp_path,
        data,
        data_dir,
        hidden_size=48,
        filter_size=96,
        dropout=0.0,
        attention_dropout=0.0,
        relu_dropout=0.0,
        learning_rate_constant=3e-3,
        batch_size=512,
        train_steps=500,
    )
    options = TrainOptions(engine="torch", eval_every_steps=250, save_every_steps=250, log_every_steps=50)
    result = train(run, data, options)
    evaluations = [line for line in read_metrics(tmp_path) if line["group"] == "evaluation"]
    assert evaluations[-1]["accuracy"] > 0.95
    assert result.best is not None
    assert result.best.metric == "bleu"
    assert result.best.value > 80
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert list(tmp_path.glob("events.out.tfevents.*"))
    average = average_checkpoints([run.checkpoints.path(step) for step in (250, 500)])
    assert set(average) == set(named(run))


def test_curves_say_how_fast_and_how_full(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    run = make_run(tmp_path, data, data_dir)
    train(run, data, QUICK)
    lines = [line for line in read_metrics(tmp_path) if line["group"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line in lines:
        assert line["steps_per_second"] > 0
        assert line["tokens_per_second"] > 0
        assert 0 <= line["padding_share"] < 1
        assert line["learning_rate"] == pytest.approx(1e-3)


def test_a_run_beyond_its_last_step_says_that_there_is_nothing_to_train(
    tmp_path: Path, data: ProblemData, data_dir: Path
) -> None:
    train(make_run(tmp_path / "run", data, data_dir, train_steps=4), data, QUICK)
    listener = Listener()
    result = train(make_run(tmp_path / "run", data, data_dir, train_steps=2), data, QUICK, listener)
    assert result.step == 4
    assert "nothing to train: already at step 4 of 2; give more train_steps" in listener.messages
