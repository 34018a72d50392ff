"""A toy problem with real data on disk, small enough to train in seconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_hparams import TransformerHParams
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.problems.problem import ProblemOptions, TextToText
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.registry import register_problem
from t2tdeploy.training.engine import Batch
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.options import TrainOptions
from t2tdeploy.training.processes import ALONE, Processes
from t2tdeploy.training.run_directory import RunDirectory

SIZES = {"train": 400, "dev": 24, "test": 8}


@register_problem
class ReverseLetters(TextToText):
    """A few letters, written backwards."""

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, str]]:
        draw = random.Random(split)
        for _ in range(SIZES[split]):
            word = " ".join(draw.choices("abcdef", k=draw.randint(3, 6)))
            yield {"inputs": word, "targets": word[::-1]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reverse_letters")
    problem = ReverseLetters(ProblemOptions(vocab_kind="bytes"))
    generate(problem, data_dir=path, source_dir=path, processes=1, num_shards=1, reporter=SilentReporter())
    return path


@pytest.fixture
def data(data_dir: Path) -> ProblemData:
    return open_problem("reverse_letters", data_dir)


TINY = TransformerHParams.create(
    {
        "hidden_size": 16,
        "filter_size": 32,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "batch_size": 128,
        "max_length": 20,
        "train_steps": 8,
        "beam_size": 2,
        "extra_length": 4,
        "learning_rate_schedule": "constant",
        "learning_rate_constant": 1e-3,
    }
)

# Tests that need a training graph use one of these two, so that no other is built.
NO_DROPOUT: dict[str, object] = {"dropout": 0.0, "attention_dropout": 0.0, "relu_dropout": 0.0}
DROPOUT: dict[str, object] = {"dropout": 0.5}
# Laws that are not about the engine run on this one, which has no graph to build.
QUICK = TrainOptions(engine="torch", eval_every_steps=4, save_every_steps=4, log_every_steps=1, decode=False)


def new_model(data: ProblemData, hparams: TransformerHParams) -> Transformer:
    """Always the same parameters."""
    torch.manual_seed(1)
    return Transformer(hparams, data.features)


def new_engine(name: str, data: ProblemData, processes: Processes = ALONE, **changes: object) -> GradientEngine:
    """An engine on the tiny Transformer with `changes` to its hparams; engines of the same hparams are equal."""
    hparams = TINY.replace(**changes)
    model = new_model(data, hparams)
    torch.manual_seed(100 + processes.rank)
    return make_engine(name, model, hparams, device=torch.device("cpu"), processes=processes)


def batch(data: ProblemData, *rows: int) -> Batch:
    return data.split("train").batch(np.array(rows, dtype=np.int64))


def parameters(engine: GradientEngine) -> dict[str, torch.Tensor]:
    """Copies."""
    return {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}


def make_run(path: Path, data: ProblemData, data_dir: Path, **changes: object) -> RunDirectory:
    """A run directory of the tiny Transformer with `changes` to its hparams."""
    return RunDirectory.create_or_resume(
        path, data=data, data_dir=data_dir, model="transformer", hparams=TINY.replace(**changes), seed=3
    )
