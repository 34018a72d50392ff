"""A run directory repeats a run, refuses another one, and needs nothing beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from t2tdeploy import registry
from t2tdeploy.errors import CorruptFileError, InputError, RunConflictError, SettingsError, UnknownNameError
from t2tdeploy.files import atomic_directory
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.checkpoints import BestEvaluation, TrainingState
from t2tdeploy.training.engine import EngineState
from t2tdeploy.training.estimator_options import RunConfig
from t2tdeploy.training.parameters import named_tensors
from t2tdeploy.training.run_directory import RunDirectory

from .conftest import TINY, make_run


def save(run: RunDirectory, step: int, best: BestEvaluation | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(step)
    tensors = named_tensors(run.new_model())
    run.checkpoints.save(EngineState(tensors, {}), TrainingState(step=step, epoch=0, batch=0, best=best))
    return tensors


def holds(run: RunDirectory, checkpoint: str | int, tensors: dict[str, torch.Tensor]) -> bool:
    found = named_tensors(run.model(checkpoint))
    return all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_record_says_what_a_repetition_needs(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    make_run(tmp_path / "run", data, data_dir)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["problem"] == "reverse_letters"
    assert record["hparams"] == TINY.model_dump(mode="json")
    assert record["seed"] == 3
    assert record["data_hash"] == data.hash
    assert {"torch", "numpy"} <= record["versions"].keys()
    assert record["command"]


def test_the_same_run_is_resumed_and_may_be_prolonged(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    save(make_run(tmp_path, data, data_dir), 1)
    prolonged = make_run(tmp_path, data, data_dir, train_steps=99)
    assert prolonged.hparams.train_steps == 99
    assert RunDirectory.open(tmp_path).hparams.train_steps == 99


def test_every_seed_that_torch_takes_is_recorded(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    recipe = {"data": data, "data_dir": data_dir, "model": "transformer", "hparams": TINY}
    largest = RunConfig.create({"seed": 2**64 - 1}).seed
    save(RunDirectory.create_or_resume(tmp_path, seed=largest, **recipe), 1)
    assert RunDirectory.create_or_resume(tmp_path, seed=largest, **recipe).record.seed == largest
    torch.manual_seed(largest)
    with pytest.raises(SettingsError, match="seed = 18446744073709551616"):
        RunConfig.create({"seed": 2**64})


def test_another_run_is_refused_with_the_differences(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    save(make_run(tmp_path, data, data_dir), 1)
    with pytest.raises(RunConflictError) as error:
        RunDirectory.create_or_resume(
            tmp_path,
            data=data,
            data_dir=data_dir,
            model="transformer",
            hparams=TINY.replace(dropout=0.3, train_steps=9),
            seed=4,
        )
    assert error.value.differences == {"seed": (3, 4), "dropout": (0.1, 0.3)}


def test_foreign_folders_are_refused(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        RunDirectory.open(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="neither empty"):
        make_run(tmp_path, data, data_dir)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"run\.json"):
        RunDirectory.open(tmp_path)


def test_unknown_models_are_refused_before_anything_is_written(
    tmp_path: Path, data: ProblemData, data_dir: Path
) -> None:
    with pytest.raises(UnknownNameError, match="transformer"):
        RunDirectory.create_or_resume(tmp_path, data=data, data_dir=data_dir, model="transfomer", hparams=TINY)
    assert not any(tmp_path.iterdir())


def test_too_much_label_smoothing_is_refused_before_anything_is_written(
    tmp_path: Path, data: ProblemData, data_dir: Path
) -> None:
    """The largest share depends on the vocabulary, of bytes here."""
    with pytest.raises(SettingsError, match=r"label_smoothing = 0\.999: .*'targets'"):
        make_run(tmp_path, data, data_dir, label_smoothing=0.999)
    assert not any(tmp_path.iterdir())
    make_run(tmp_path, data, data_dir, label_smoothing=0.99)


def test_tokenizers_come_from_the_run_itself(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    make_run(tmp_path, data, data_dir)
    run = RunDirectory.open(tmp_path)
    assert repr(run.features) == repr(data.features), "of the same types, too"
    assert run.tokenizers["inputs"] is run.tokenizers["targets"]
    assert run.tokenizers["inputs"].hash == data.tokenizers["inputs"].hash


def test_checkpoints_are_chosen_by_name(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    run = make_run(tmp_path, data, data_dir)
    with pytest.raises(InputError, match="steps with one: none"):
        run.model()
    one = save(run, 1)
    assert holds(run, "best", one)  # nothing was evaluated: the last
    two, three = save(run, 2, BestEvaluation(step=2, metric="bleu", value=9.0)), save(run, 3)
    assert holds(run, "best", two)
    assert holds(run, "last", three)
    assert holds(run, 1, one)
    assert holds(run, "1", one)
    with pytest.raises(InputError, match="averaged"):
        run.model("averaged")
    assert run.average(2) == [2, 3]
    mean = {name: (two[name].double() + three[name].double()).div(2).float() for name in two}
    assert holds(run, "averaged", mean)
    assert not run.model().training


def test_training_that_starts_leaves_an_average_under_way_alone(
    tmp_path: Path, data: ProblemData, data_dir: Path
) -> None:
    run = make_run(tmp_path, data, data_dir)
    save(run, 1)
    run.release()
    with atomic_directory(tmp_path / "averaged") as under_way:
        (under_way / "model.safetensors").write_bytes(b"half")
        killed = tmp_path / ".usr.0123abcd.partial"
        killed.mkdir()
        make_run(tmp_path, data, data_dir)
        assert not killed.exists()
    assert (tmp_path / "averaged" / "model.safetensors").read_bytes() == b"half"


def test_the_users_folder_is_kept_without_caches(tmp_path: Path, data: ProblemData, data_dir: Path) -> None:
    user = tmp_path / "mine"
    (user / "__pycache__").mkdir(parents=True)
    (user / "my_model.py").write_text("x = 1\n")
    RunDirectory.create_or_resume(
        tmp_path / "run", data=data, data_dir=data_dir, model="transformer", hparams=TINY, usr_dir=user
    )
    assert [file.name for file in (tmp_path / "run" / "usr").iterdir()] == ["my_model.py"]


def test_a_run_of_the_users_own_problem_opens_with_its_copy(
    tmp_path: Path, data: ProblemData, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.problems, "_objects", dict(registry.problems._objects))
    path = tmp_path / "run"
    user = tmp_path / "mine"
    user.mkdir()
    (user / "problem.py").write_text(
        "from t2tdeploy.problems.problem import TextToText\n"
        "from t2tdeploy.registry import register_problem\n\n"
        "@register_problem\n"
        "class OnlyInThisFolder(TextToText):\n"
        "    def generate_samples(self, split, source_dir, reporter):\n"
        "        return iter(())\n"
    )
    RunDirectory.create_or_resume(path, data=data, data_dir=data_dir, model="transformer", hparams=TINY, usr_dir=user)
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, "problem": "only_in_this_folder_rev"}))
    assert RunDirectory.open(path).record.problem == "only_in_this_folder_rev"
    assert "only_in_this_folder" in registry.problems
    (path / "usr" / "problem.py").unlink()
    (path / "usr").rmdir()
    monkeypatch.setattr(registry.problems, "_objects", {})
    with pytest.raises(UnknownNameError, match="unknown problem 'only_in_this_folder_rev'"):
        RunDirectory.open(path)
