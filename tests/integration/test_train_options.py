"""Options of `train` and `evaluate` at the command line, on the road's small run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2tdeploy.training.run_directory import RunDirectory
from tests.integration.conftest import HPARAMS, PROBLEM, Command, Fails, Road, train_arguments


def short(road: Road, output: Path, *more: str | Path) -> list[str | Path]:
    """Four steps, an evaluation every two, without a graph to build; later options win."""
    return [*train_arguments(road.folder, output, steps=4), "--engine", "torch", "--eval-every", "2", *more, "--json"]


def metrics(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["group"] == "evaluation"]


def test_no_decode_measures_losses_only(road: Road, tmp_path: Path, run: Command) -> None:
    outcome = run(*short(road, tmp_path / "run", "--no-decode"))
    assert outcome.status == 0, outcome.stderr
    assert outcome.result["best_loss"] == min(line["loss"] for line in metrics(tmp_path / "run"))
    assert not any("bleu" in line for line in metrics(tmp_path / "run"))


def test_metric_decides_what_is_best(road: Road, tmp_path: Path, run: Command) -> None:
    outcome = run(*short(road, tmp_path / "run", "--metric", "chrf", "--eval-sentences", "4"))
    assert outcome.status == 0, outcome.stderr
    assert outcome.result["best_chrf"] == max(line["chrf"] for line in metrics(tmp_path / "run"))


def test_a_metric_that_is_not_measured_is_refused_before_anything_is_written(tmp_path: Path, fails: Fails) -> None:
    words: list[str | Path] = [
        "train", "--problem", PROBLEM, "--generate-data", "--data-dir", tmp_path / "data",
        "--output-dir", tmp_path / "run", "--metric", "bleu", "--no-decode",
    ]  # fmt: skip
    fails(2, words, "metric = bleu needs decode")
    assert not list(tmp_path.iterdir())


def test_a_gradient_builder_of_the_other_engine_is_refused(road: Road, tmp_path: Path, fails: Fails) -> None:
    words = short(road, tmp_path / "run", "--engine", "torch", "--gradient-builder", "portable")
    words.remove("--json")
    fails(2, words, "gradient_builder = portable is of engine ort; engine = torch has none")
    assert not (tmp_path / "run").exists()


def test_early_stopping_ends_a_run_that_learns_nothing(road: Road, tmp_path: Path, run: Command) -> None:
    words = short(road, tmp_path / "run", "--no-decode", "--early-stopping-evals", "1", "--train-steps", "50")
    words[words.index("--hparams") + 1] = HPARAMS.replace("learning_rate_constant=1", "learning_rate_constant=1e-30")
    outcome = run(*words)
    assert outcome.status == 0, outcome.stderr
    assert (outcome.result["ending"], outcome.result["step"]) == ("early stopping", 4)


def test_warm_start_begins_where_the_other_run_was_best(road: Road, tmp_path: Path, run: Command) -> None:
    words = short(road, tmp_path / "run", "--no-decode", "--warm-start", road.run)
    words[words.index("--hparams") + 1] = HPARAMS.replace("learning_rate_constant=1", "learning_rate_constant=1e-30")
    outcome = run(*words)
    assert outcome.status == 0, outcome.stderr
    assert f"warm start from {road.run}" in outcome.stderr
    best = RunDirectory.open(road.run).checkpoints.best_step()
    (theirs,) = [line for line in metrics(road.run) if line["step"] == best]
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_torch_does_not_take_is_refused(road: Road, tmp_path: Path, fails: Fails, seed: int) -> None:
    fails(2, short(road, tmp_path / "run", "--seed", str(seed))[:-1], "'--seed'", str(seed))
    assert not list(tmp_path.iterdir())


def test_what_the_problem_changes_in_the_set_is_told(road: Road, tmp_path: Path, run: Command) -> None:
    outcome = run(*short(road, tmp_path / "run", "--no-decode"))
    (said,) = [line for line in outcome.stderr.splitlines() if line.startswith(f"{PROBLEM} sets ")]
    assert "max_length=64" in said
    assert "relu_dropout=0.0" in said
    for overridden in ("batch_size", "extra_length", " dropout", "train_steps"):
        assert overridden not in said


def test_a_problem_may_set_what_only_another_model_has(road: Road, tmp_path: Path, run: Command, fails: Fails) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "mine.py").write_text(USR.replace("WISH", "width=8"))
    words = short(road, tmp_path / "run", "--usr-dir", tmp_path / "usr")
    words[words.index(PROBLEM)] = "wishing"
    fails(2, words[:-1], "holds no data of problem 'wishing'")
    (tmp_path / "usr" / "mine.py").write_text(USR.replace("WISH", "dropuot=0.3"))
    fails(2, words[:-1], "dropuot", "did you mean 'dropout'?")


@pytest.fixture
def table(tmp_path: Path, run: Command) -> Callable[..., list[str | Path]]:
    """Generates data of a table with these held-out rows; returns the command that trains two steps on them."""

    def table(**held_out: str) -> list[str | Path]:
        rows = [f"{number % 50 + 0.5},{'odd' if number % 2 else 'even'}" for number in range(100)]
        (tmp_path / "numbers.csv").write_text("\n".join(["number,kind", *rows, ""]))
        chosen = "".join(f",held_out_{split}={count}" for split, count in held_out.items())
        made = run(
            "datagen", "--problem", "tabular_csv", "--source-dir", tmp_path, "--data-dir", tmp_path / "data",
            "--problem-options", f"train=numbers.csv,target=kind{chosen}", "--processes", "1",
        )  # fmt: skip
        assert made.status == 0, made.stderr
        return [
            "train", "--problem", "tabular_csv", "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "run",
            "--engine", "torch", "--threads", "1", "--train-steps", "2",
        ]  # fmt: skip

    return table


def test_what_only_evaluations_follow_is_refused_without_a_dev_split(
    tmp_path: Path, table: Callable[..., list[str | Path]], run: Command, fails: Fails
) -> None:
    words = table(dev="none")
    for option, value in (("--early-stopping-evals", "2"), ("--metric", "f1")):
        named = f"{option[2:].replace('-', '_')} = {value}"
        fails(2, [*words, option, value], named, "the data have no dev split", "help: leave it out")
    assert not (tmp_path / "run").exists()
    outcome = run(*words)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stderr.count("no dev split: nothing is evaluated") == 1


def test_options_of_translations_are_refused_for_classes(
    tmp_path: Path, table: Callable[..., list[str | Path]], run: Command, fails: Fails
) -> None:
    words = table()
    said = "for translations only, and the model of this run is one to classify"
    fails(2, [*words, "--no-decode"], f"--no-decode: {said}", "help: leave them out")
    fails(2, [*words, "--eval-sentences", "3", "--no-decode"], f"--no-decode, --eval-sentences: {said}")
    assert not (tmp_path / "run").exists()
    outcome = run(*words)
    assert outcome.status == 0, outcome.stderr
    assert "dev split" not in outcome.stderr
    known = ["train", "--problem", "iris", "--data-dir", tmp_path / "iris", "--output-dir", tmp_path / "run"]
    fails(2, [*known, "--generate-data", "--no-decode"], f"--no-decode: {said}")
    assert not (tmp_path / "iris").exists()


USR = """
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.problems.problem import TextToText
from t2tdeploy.registry import register_model, register_problem

class WideHParams(HParams):
    width: int = 4

@register_model
class Wide(Model):
    hparams_class = WideHParams

@register_problem
class Wishing(TextToText):
    default_hparams = "WISH"
    def generate_samples(self, split, source_dir, reporter):
        return iter(())
"""


def test_evaluate_refuses_data_of_another_vocabulary(road: Road, tmp_path: Path, run: Command, fails: Fails) -> None:
    other = tmp_path / "other"
    sizes = "train_examples=200,dev_examples=10,test_examples=10,vocab_size=400"
    made = run("datagen", "--problem", PROBLEM, "--data-dir", other, "--problem-options", sizes, "--processes", "1")
    assert made.status == 0, made.stderr
    words: list[str | Path] = ["evaluate", "--output-dir", road.run, "--data-dir", other]
    fails(
        2,
        words,
        "'inputs' in the data directory is not what",
        f"help: give the data of this run with --data-dir; it was trained from {road.data}",
    )
    moved = Path(shutil.copytree(road.data, tmp_path / "moved"))
    assert run("evaluate", "--output-dir", road.run, "--data-dir", moved, "--sentences", "2").status == 0
