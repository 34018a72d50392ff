"""What a model takes from the training data before its first step: once, from every example, and never again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.model import Batch, Model
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.registry import register_model
from t2tdeploy.training.options import TrainOptions
from t2tdeploy.training.run_directory import RunDirectory
from t2tdeploy.training.trainer import train

from .test_fixed_output_runs import SIZES, ToyMood, toys  # noqa: F401  # the fixture
from .test_trainer import Killed, Listener, kill, tensors

LOOKED: list[int] = []  # examples of each batch that a model was shown


@register_model
class Counting(Model):
    """Knows how often each class occurs, and the mean length of a text."""

    def __init__(self, hparams: BasicHParams, features) -> None:  # type: ignore[no-untyped-def]
        super().__init__(hparams, features)
        self.seen = nn.Parameter(torch.zeros(len(features["targets"].classes)), requires_grad=False)
        self.register_buffer("length", torch.zeros(()))

    def initialize(self, batches: Iterable[Batch]) -> None:
        assert not torch.is_grad_enabled()
        for batch in batches:
            LOOKED.append(len(batch["targets"]))
            self.seen += torch.bincount(batch["targets"], minlength=len(self.seen))
            self.length += (batch["inputs"] != 0).sum()
        self.length /= self.seen.sum()

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return features["inputs"].mean(1)


def start(path: Path, toys: Path, **hparams: object) -> tuple[RunDirectory, ProblemData]:  # noqa: F811
    data = open_problem(ToyMood.name, toys)
    settings = BasicHParams.create({"hidden_size": 8, "batch_size": 512, "train_steps": 4, **hparams})
    run = RunDirectory.create_or_resume(path, data=data, data_dir=toys, model="counting", hparams=settings, seed=3)
    return run, data


@pytest.mark.parametrize("engine", ["torch", "ort"])
def test_it_is_shown_all_training_examples_once(tmp_path: Path, toys: Path, engine: str) -> None:  # noqa: F811
    LOOKED.clear()
    run, data = start(tmp_path, toys, max_length=20)  # longer ones are left out of steps only
    options = TrainOptions(engine=engine, save_every_steps=2, log_every_steps=1)
    with pytest.raises(Killed):
        train(run, data, options, Listener({3: kill}))
    assert sum(LOOKED) == SIZES["train"]
    first = tensors(run, 2)
    targets = data.split("train").id_counts("targets", 3)
    assert first["seen"].tolist() == targets.tolist()
    assert float(first["length"]) == pytest.approx(float(data.split("train").lengths["inputs"].mean()))
    del run
    again, _ = start(tmp_path, toys, max_length=20)
    train(again, data, options)
    assert sum(LOOKED) == SIZES["train"]  # a run that goes on has it in its checkpoint
    for name in ("seen", "length"):
        assert torch.equal(tensors(again, 4)[name], first[name])


def test_a_warm_start_comes_after_it(tmp_path: Path, toys: Path) -> None:  # noqa: F811
    save_file({"seen": torch.tensor([1.0, 2.0, 3.0])}, tmp_path / "other.safetensors")
    run, data = start(tmp_path / "run", toys)
    train(run, data, TrainOptions(engine="torch", warm_start=tmp_path / "other.safetensors"))
    assert tensors(run, 4)["seen"].tolist() == [1, 2, 3]
    assert tensors(run, 4)["length"] > 1
