"""Checkpoints are whole or absent, checked when read, pruned and averaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2tdeploy.errors import CorruptFileError, InputError, OperationalError
from t2tdeploy.training import checkpoints
from t2tdeploy.training.checkpoints import (
    BestEvaluation,
    CheckpointStore,
    TrainingState,
    average_checkpoints,
    read_state,
    verify,
    write_average,
)
from t2tdeploy.training.engine import EngineState
from tests.limits import no_file_larger_than


def engine_state(value: float) -> EngineState:
    model = {"weight": torch.full((3, 2), value), "steps_seen": torch.tensor(int(value))}
    return EngineState(model, {"weight/exp_avg": torch.full((3, 2), -value), "rng/cpu": torch.get_rng_state()})


def save(store: CheckpointStore, step: int, best: BestEvaluation | None = None) -> Path:
    return store.save(engine_state(float(step)), TrainingState(step=step, epoch=1, batch=step, best=best))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    best = BestEvaluation(step=4, metric="bleu", value=31.5)
    save(store, 4, best)
    engine, training = store.load(4)
    assert training == TrainingState(step=4, epoch=1, batch=4, best=best)
    for mine, theirs in zip(engine, engine_state(4.0), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert {file.name for file in store.path(4).iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (10, 20, 30, 40):
        save(store, step, BestEvaluation(step=10, metric="bleu", value=1.0))
    store.prune(2)
    assert store.steps() == [10, 30, 40]
    assert store.best_step() == 10


def test_without_room_the_checkpoints_that_were_there_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    for size in (10, 300):  # not even the parameters; parameters, but not the optimizer's state
        with no_file_larger_than(size):
            for step in (1, 2):
                with pytest.raises(OperationalError, match=rf"step-0000000{step} cannot be written: File too") as error:
                    save(store, step)
                assert "goes on from step-00000001" in (error.value.help or "")
            with pytest.raises(OperationalError, match="step-00000001 cannot be written"):
                store.record(TrainingState(step=1, epoch=2, batch=0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    verify(store.path(1))
    assert store.load(1)[1].epoch == 1


def test_who_may_read_the_state_may_read_the_tensors(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 1)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {(path / "state.json").stat().st_mode & 0o777}
    assert (path / "state.json").stat().st_mode & 0o400


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_damaged_file_is_named_and_an_intact_checkpoint_offered(tmp_path: Path, name: str) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        save(store, step)
    for step in (2, 3):
        damaged = store.path(step) / name
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
    with pytest.raises(CorruptFileError) as error:
        store.load(3)
    assert error.value.path == store.path(3) / name
    assert "step-00000001" in (error.value.help or "")
    store.load(1)


def test_a_missing_or_foreign_state_file_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = save(store, 1)
    (path / "state.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"state\.json"):
        verify(path)
    (path / "state.json").unlink()
    with pytest.raises(CorruptFileError, match="missing") as error:
        store.load(1)
    assert "no earlier checkpoint" in (error.value.help or "")


def test_average_is_the_mean(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    paths = [save(store, step) for step in (1, 2, 6)]
    average = average_checkpoints(paths)
    assert torch.equal(average["weight"], torch.full((3, 2), 3.0))
    assert average["weight"].dtype == torch.float32
    assert average["steps_seen"] == 6  # integers are not averaged
    write_average(tmp_path / "averaged", paths)
    verify(tmp_path / "averaged")
    assert read_state(tmp_path / "averaged").step == 6
    assert torch.equal(load_file(tmp_path / "averaged" / "model.safetensors")["weight"], average["weight"])


def test_average_of_nothing_or_of_strangers_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(InputError, match="no checkpoint"):
        average_checkpoints([])
    other = EngineState({"weight": torch.zeros(2)}, {})
    paths = [save(store, 1), store.save(other, TrainingState(step=2, epoch=0, batch=0))]
    with pytest.raises(InputError, match="another model"):
        average_checkpoints(paths)


def best_at(step: int) -> BestEvaluation:
    return BestEvaluation(step=step, metric="bleu", value=1.0)


def averaged(directory: Path) -> float:
    return float(load_file(directory / "model.safetensors")["weight"][0, 0])


def test_average_leaves_out_the_best_once_those_after_it_are_gone(tmp_path: Path) -> None:
    store, mean = CheckpointStore(tmp_path / "checkpoints"), tmp_path / "averaged"
    for step in (10, 20, 30):
        save(store, step, best_at(10))
        store.record(TrainingState(step=step, epoch=1, batch=step, best=best_at(10)))  # as after each evaluation
        store.prune(2)
    assert store.average(5, mean) == [10, 20, 30], "nothing is missing between them yet"
    assert averaged(mean) == 20.0
    for step in (40, 50):
        save(store, step, best_at(10))
        store.prune(2)
    assert store.steps() == [10, 40, 50]
    assert store.average(5, mean) == [40, 50]
    assert averaged(mean) == 45.0
    assert store.average(1, mean) == [50]


def test_average_takes_the_best_among_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (10, 20, 30, 40):
        save(store, step, best_at(30))
        store.prune(2)
    assert store.average(2, tmp_path / "averaged") == [30, 40]
    assert averaged(tmp_path / "averaged") == 35.0


def train_before_each_reading(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Before the first `times` readings of tensors another checkpoint is saved, and all but the newest two go."""
    read, steps = checkpoints.read_tensors, iter(range(store.steps()[-1] + 1, store.steps()[-1] + 1 + times))

    def after_training(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
        if (step := next(steps, None)) is not None:
            save(store, step)
            store.prune(2)
        return read(checkpoint, name)

    monkeypatch.setattr(checkpoints, "read_tensors", after_training)


def test_average_begins_anew_when_training_removes_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (1, 2):
        save(store, step)
    train_before_each_reading(store, monkeypatch, times=2)
    assert store.average(2, tmp_path / "averaged") == [3, 4]
    assert averaged(tmp_path / "averaged") == 3.5


def test_training_that_is_faster_than_averaging_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (1, 2):
        save(store, step)
    train_before_each_reading(store, monkeypatch, times=100)
    with pytest.raises(OperationalError, match="faster than 2 of them") as error:
        store.average(2, tmp_path / "averaged")
    assert "--last" in (error.value.help or "")
    assert not (tmp_path / "averaged").exists()


def test_average_names_a_damaged_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (1, 2):
        save(store, step)
    (store.path(1) / "model.safetensors").unlink()
    with pytest.raises(CorruptFileError, match=r"step-00000001/model\.safetensors"):
        store.average(2, tmp_path / "averaged")


_SAVER = """
import sys, torch
from pathlib import Path
from t2tdeploy.training.checkpoints import CheckpointStore, TrainingState
from t2tdeploy.training.engine import EngineState
torch.set_num_threads(1)
store, tensors = CheckpointStore(Path(sys.argv[1])), {"weight": torch.zeros(2_000_000)}
print("ready", flush=True)
for step in range(1, 1000):
    store.save(EngineState(tensors, tensors), TrainingState(step=step, epoch=0, batch=0))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_kill_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _SAVER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    store = CheckpointStore(tmp_path)
    while not store.steps():
        time.sleep(0.01)
    time.sleep(0.13)  # somewhere inside a later save
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for step in store.steps():
        verify(store.path(step))
    store.remove_unfinished()
    assert sorted(path.name for path in tmp_path.iterdir()) == [store.path(step).name for step in store.steps()]


def test_unfinished_folders_are_removed_and_nothing_else(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    (tmp_path / ".step-00000002.abcdef01.partial").mkdir()
    (tmp_path / ".step-00000001.abcdef02.old").mkdir()
    (tmp_path / ".best.json.abcdef03.partial").write_text("{")
    store.remove_unfinished()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_without_a_best_none_is_marked(tmp_path: Path) -> None:
    """Not even one that comes again, in a run that went on from before it."""
    store = CheckpointStore(tmp_path)
    save(store, 4, BestEvaluation(step=4, metric="loss", value=1.0))
    assert store.best_step() == 4
    store.mark_best(None)
    assert store.best_step() is None


def test_best_is_forgotten_with_its_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 2, BestEvaluation(step=1, metric="loss", value=2.0))
    assert store.best_step() is None
    (tmp_path / "best.json").write_text(json.dumps({"nonsense": 1}))
    with pytest.raises(CorruptFileError, match=r"best\.json"):
        store.best_step()
