"""A toy problem with real data on disk, small enough to train in seconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from t2tdeploy.models.transformer_hparams import TransformerHParams
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.problems.problem import ProblemOptions, TextToText
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.registry import register_problem
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


def make_run(path: Path, data: ProblemData, data_dir: Path, **changes: object) -> RunDirectory:
    """A run directory of the tiny Transformer with `changes` to its hparams."""
    return RunDirectory.create_or_resume(
        path, data=data, data_dir=data_dir, model="transformer", hparams=TINY.replace(**changes), seed=3
    )
