"""Whole runs that classify and regress: they learn, resume exactly, keep the best, and show what they found."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from t2tdeploy import registry
from t2tdeploy.errors import InputError, TrainingError, UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import HParams
from t2tdeploy.problems.batching import Batch
from t2tdeploy.problems.class_metrics import ClassificationScores
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.problems.problem import Problem, TextOptions, TextToClass
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.registry import register_model, register_problem
from t2tdeploy.tokenizer import Tokenizer
from t2tdeploy.training.distributed import _Costs
from t2tdeploy.training.engine import EvaluationSums
from t2tdeploy.training.options import TrainOptions
from t2tdeploy.training.predictions import PredictionReport, evaluate_predictions
from t2tdeploy.training.processes import Processes
from t2tdeploy.training.run_directory import RunDirectory
from t2tdeploy.training.summaries import read_metrics
from t2tdeploy.training.trainer import Ending, train
from tests.models.labelled import CASES, SmallConvolution

from .test_trainer import Killed, Listener, kill, losses, tensors

SIZES = {"train": 240, "dev": 60, "test": 20}
OPTIONS = TrainOptions(engine="torch", eval_every_steps=20, save_every_steps=20, log_every_steps=10)


@register_problem
class ToyMood(TextToClass):
    """A few letters; the class is the one that is there most often."""

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, str]]:
        draw = random.Random(split)
        for _ in range(SIZES[split]):
            most = draw.choice("abc")
            letters = [*draw.choices("abcdef", k=draw.randint(0, 4)), *most * 5]
            yield {"inputs": " ".join(draw.sample(letters, k=len(letters))), "targets": most}


@register_problem
class ToyPlane(Problem):
    """Two numbers; what is predicted depends on both."""

    task = "regress"

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        pair = FeatureSpec("pair", Modality.REAL, shape=(2,))
        return {"pair": pair, "targets": FeatureSpec("targets", Modality.REAL)}

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        draw = random.Random(split)
        for _ in range(SIZES[split]):
            x, y = draw.uniform(-1, 1), draw.uniform(-1, 1)
            yield {"pair": (x, y), "targets": 3 * x - y + 2}


@register_problem
class ToyShades(Problem):
    """Pictures of one shade, with noise; training sees them mirrored at random."""

    task = "classify"

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        return CASES["convolution"].features  # so that its graph is there already

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        draw = np.random.default_rng(SIZES[split])
        for number in range(SIZES[split]):
            shade = draw.integers(0, 60, (6, 5, 3)) + 90 * (number % 3)
            yield {"inputs": shade.astype(np.uint8), "targets": "abc"[number % 3]}

    def augment(self, batch: Batch, generator: np.random.Generator) -> Batch:
        mirrored = generator.random(len(batch["inputs"])) < 0.5
        inputs = np.where(mirrored[:, None, None, None], batch["inputs"][:, :, ::-1], batch["inputs"])
        return {**batch, "inputs": inputs}


register_model(SmallConvolution)
RECIPE = {"train_steps": 40, "learning_rate_constant": 0.03, "learning_rate_warmup_steps": 1}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "toy_mood": ("bag_of_embeddings", {"hidden_size": 16, "batch_size": 512}),
    "toy_plane": ("basic_fc", {"hidden_size": 16, "batch_size": 40}),
    "toy_shades": ("small_convolution", {"batch_size": 40}),
}


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toys")
    for name in MODELS:
        problem_class: type[Problem] = registry.problems.get(name)
        options = problem_class.options_class.create({})
        if isinstance(options, TextOptions):
            options = options.replace(vocab_kind="bytes")
        generate(problem_class(options), data_dir=path, source_dir=path, num_shards=1, reporter=SilentReporter())
    return path


def make(path: Path, name: str, toys: Path, **changes: object) -> tuple[RunDirectory, ProblemData]:
    model, settings = MODELS[name]
    hparams: HParams = registry.models.get(model).hparams_class.create({**RECIPE, **settings, **changes})
    data = open_problem(name, toys)
    run = RunDirectory.create_or_resume(path, data=data, data_dir=toys, model=model, hparams=hparams, seed=3)
    return run, data


def evaluations(run: RunDirectory) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run.path) if line["group"] == "evaluation"]


@pytest.mark.parametrize(
    ("name", "metric", "pictures"),
    [
        ("toy_mood", "accuracy", ["confusion", "reliability"]),
        ("toy_plane", "rmse", ["predictions"]),
        ("toy_shades", "accuracy", ["confusion", "reliability"]),
    ],
)
def test_it_learns_and_shows_what_it_found(
    tmp_path: Path, toys: Path, name: str, metric: str, pictures: list[str]
) -> None:
    run, data = make(tmp_path, name, toys, train_steps=80)
    result = train(run, data, OPTIONS)
    found = evaluations(run)
    assert result.best is not None
    assert result.best.metric == metric
    values = [line[metric] for line in found]
    assert result.best.value == (min(values) if metric == "rmse" else max(values))
    assert result.best.value < 0.3 if metric == "rmse" else result.best.value > 0.9
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text())["value"] == result.best.value
    for picture in [*pictures, "curve"]:
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    training = next(line for line in read_metrics(run.path) if line["group"] == "train")
    assert training["examples_per_second"] > 0
    assert ("tokens_per_second" in training) == (name == "toy_mood")

    # What the best checkpoint does, evaluated alone and one by one, is what was reported.
    model = RunDirectory.open(tmp_path).model("best")
    report = evaluate_predictions(model, data, "dev", batch_size=1)
    expected = next(line for line in reversed(found) if line["step"] == result.best.step)
    for value, number in report.values.items():
        assert number == pytest.approx(expected[value], rel=1e-4, abs=1e-5), value


@pytest.mark.parametrize("metric", [None, "loss"])
@pytest.mark.parametrize("name", ["toy_mood", "toy_plane", "toy_shades"])
def test_a_model_that_diverged_is_named_each_time(tmp_path: Path, toys: Path, name: str, metric: str | None) -> None:
    diverging = {"optimizer": "adam", "learning_rate_constant": 1e30, "train_steps": 1}
    run, data = make(tmp_path, name, toys, **diverging)
    for _ in range(2):  # the second time it is what was left to do
        with pytest.raises(TrainingError, match=r"step 1: the evaluation's loss is (nan|inf)") as error:
            train(run, data, OPTIONS.replace(metric=metric))
        assert "start a new run" in (error.value.help or "")
    with pytest.raises(TrainingError, match=r"^the evaluation's loss is (nan|inf)") as error:
        evaluate_predictions(run.model("last"), data, "dev", batch_size=50)
    assert "an earlier checkpoint" in (error.value.help or "")


def test_a_class_may_be_ruled_out_but_predictions_are_numbers(tmp_path: Path, toys: Path) -> None:
    """Where the loss, of a model's own, does not say so."""

    def report(name: str, values: list[float]) -> PredictionReport:
        run, data = make(tmp_path / name, name, toys)

        def score(batch: Batch) -> EvaluationSums:
            rows = np.array([values] * len(batch["targets"]), dtype=np.float32)
            return EvaluationSums(1.0, len(rows), 0, rows if name == "toy_mood" else rows[:, 0])

        return evaluate_predictions(run.new_model(), data, "dev", batch_size=50, score=score)

    assert isinstance(report("toy_mood", [0.0, -np.inf, 1.0]).scores, ClassificationScores)
    for name, value in (("toy_mood", np.nan), ("toy_mood", np.inf), ("toy_plane", np.nan), ("toy_plane", -np.inf)):
        with pytest.raises(TrainingError, match=f"predictions have a {value}"):
            report(name, [value, 0.0, 1.0])


@pytest.mark.parametrize("name", ["toy_mood", "toy_shades"])
def test_a_killed_run_continues_bit_for_bit(tmp_path: Path, toys: Path, name: str) -> None:
    """Dropout, augmentation and running statistics included."""
    straight, data = make(tmp_path / "straight", name, toys)
    train(straight, data, OPTIONS)
    killed, _ = make(tmp_path / "killed", name, toys)
    with pytest.raises(Killed):
        train(killed, data, OPTIONS, Listener({30: kill}))
    del killed  # and its lock
    torch.manual_seed(12345)
    again, _ = make(tmp_path / "killed", name, toys)
    assert again.checkpoints.steps()[-1] == 20
    train(again, data, OPTIONS)
    assert losses(again) == losses(straight)
    assert all(torch.equal(tensor, tensors(straight, 40)[key]) for key, tensor in tensors(again, 40).items())


class OneOfTwo(Processes):
    """The first of two processes, whose sums are its own; what they would cost is counted."""

    world_size = 2

    def __init__(self) -> None:
        self.costs = _Costs()

    def add_up(self, buffers: Sequence[Tensor]) -> None:
        with self.costs.measured(buffers):
            pass

    def communication(self) -> dict[str, float]:
        return self.costs.flush()


def test_what_a_step_adds_up_includes_running_statistics(tmp_path: Path, toys: Path) -> None:
    run, data = make(tmp_path, "toy_shades", toys, train_steps=6)
    train(run, data, OPTIONS.replace(log_every_steps=3), processes=OneOfTwo())
    model = run.new_model()
    gradients = 4 * (1 + sum(parameter.numel() for parameter in model.parameters()))
    statistics = 8 * sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point())
    assert statistics > 0
    found = [line["communication_bytes"] for line in read_metrics(run.path) if line["group"] == "train"]
    assert found == [gradients + statistics] * 2


def test_a_run_through_onnxruntime_is_torch_s(tmp_path: Path, toys: Path) -> None:
    for engine in ("ort", "torch"):
        run, data = make(tmp_path / engine, "toy_shades", toys)
        train(run, data, OPTIONS.replace(engine=engine))
    found, expected = (evaluations(RunDirectory.open(tmp_path / engine))[-1] for engine in ("ort", "torch"))
    for value in ("loss", "accuracy", "f1", "auc", "calibration_error"):
        assert found[value] == pytest.approx(expected[value], rel=1e-3), value


def test_training_stops_early_by_the_error_of_numbers(tmp_path: Path, toys: Path) -> None:
    run, data = make(tmp_path, "toy_plane", toys, train_steps=400, learning_rate_constant=1e-12)
    result = train(run, data, OPTIONS.replace(early_stopping_evals=2, eval_every_steps=1))
    assert result.ending is Ending.EARLY_STOPPING
    assert result.step < 400


@pytest.mark.parametrize(("name", "valid"), [("toy_mood", "accuracy, f1, loss"), ("toy_plane", "rmse, loss")])
def test_metrics_of_translations_are_refused(tmp_path: Path, toys: Path, name: str, valid: str) -> None:
    run, data = make(tmp_path, name, toys)
    with pytest.raises(UserError, match="bleu is not measured for task") as error:
        train(run, data, OPTIONS.replace(metric="bleu"))
    assert error.value.help == f"valid choices: {valid}"


def test_a_model_that_does_not_fit_the_problem_leaves_no_folder(tmp_path: Path, toys: Path) -> None:
    data, model = open_problem("toy_plane", toys), registry.models.get("transformer")
    with pytest.raises(UserError, match="model transformer needs"):
        RunDirectory.create_or_resume(
            tmp_path / "run", data=data, data_dir=toys, model="transformer", hparams=model.hparams_class.create({})
        )
    assert not (tmp_path / "run").exists()


def test_data_of_other_classes_are_refused(tmp_path: Path, toys: Path) -> None:
    run, data = make(tmp_path, "toy_mood", toys)
    run.require_vocabulary_of(data)
    data.features["targets"] = FeatureSpec("targets", Modality.CLASS_LABEL, classes=("a", "c", "b"))
    with pytest.raises(InputError, match=r"classes = \('a', 'c', 'b'\) instead of \('a', 'b', 'c'\)"):
        run.require_vocabulary_of(data)
