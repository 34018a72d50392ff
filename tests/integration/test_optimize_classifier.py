"""A classifier in 8 bits by the real commands: the gate lets it pass or not, and a server answers by it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

from t2tdeploy.bundle import load_bundle
from t2tdeploy.cli import main
from tests.integration.commands import running_server, succeed, t2tdeploy
from tests.integration.conftest import Command, Fails

PROBLEM = "tabular_csv"
COLUMNS = "abcdefgh"
INT8 = ("--variant", "cpu-int8")


@dataclass(frozen=True)
class Folder:
    """Which sign the sum of eight numbers has: a trained bundle, and runs whose dev examples it was not made for."""

    path: Path

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def far(self) -> Path:
        """A run whose dev rows lie far outside the ranges of train, which float32 does not mind and 8 bits do."""
        return self.path / "far"

    def rows(self) -> list[dict[str, float]]:
        values = np.random.default_rng(5).uniform(-1, 1, (20, len(COLUMNS)))
        return [dict(zip(COLUMNS, row, strict=True)) for row in values.tolist()]


def table(values: np.ndarray) -> str:
    rows = [",".join([*map(str, row), "high" if sum(row) > 0 else "low"]) for row in values.round(4).tolist()]
    return "\n".join([",".join([*COLUMNS, "sign"]), *rows, ""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("classifier")
    drawn = np.random.default_rng(0)
    (path / "train.csv").write_text(table(drawn.uniform(-1, 1, (600, 8))))
    (path / "near.csv").write_text(table(drawn.uniform(-1, 1, (150, 8))))
    (path / "far.csv").write_text(table(30 * drawn.normal(size=(150, 8)) ** 3))
    for name, steps in (("near", 60), ("far", 1)):
        data, options = path / f"data-{name}", f"train=train.csv,dev={name}.csv,held_out_test=none,target=sign"
        command("datagen", "--problem", PROBLEM, "--source-dir", path, "--data-dir", data, "--problem-options", options)
        train(data, path / name, steps)
    command("export", "--output-dir", path / "near", "--bundle", path / "bundle")
    return Folder(path)


@pytest.fixture(scope="module")
def small(folder: Folder) -> Path:
    """The bundle with its variant in 8 bits, which answers where none is named."""
    path = folder.path / "small"
    outcome = succeed("optimize", "--bundle", folder.bundle, "--output", path, *INT8, "--default", "cpu-int8")
    assert [line.split()[0] for line in outcome.stdout.splitlines() if line.endswith("  passes")] == ["cpu-int8"]
    return path


def command(*words: str | Path) -> None:
    """In this process, which has imported torch once."""
    outcome = click.testing.CliRunner().invoke(main.commands, [*map(str, words)], standalone_mode=False)
    if outcome.exception:
        raise outcome.exception


def train(data: Path, run: Path, steps: int, *more: str, problem: str = PROBLEM) -> None:
    command(
        "train", "--problem", problem, "--model", "dnn_classifier", "--hparams-set", "dnn_small",
        "--hparams", "hidden_units=[64,64]", "--data-dir", data, "--output-dir", run, "--engine", "torch",
        "--train-steps", str(steps), "--threads", "1", *more,
    )  # fmt: skip


def answers(*words: str | Path) -> list[dict[str, Any]]:
    outcome = succeed("classify", "--format", "json", *words)
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def test_the_manifest_says_what_was_measured(small: Path) -> None:
    manifest = load_bundle(small).manifest
    assert manifest.default_variant == "cpu-int8"
    measured = manifest.variants["cpu-int8"].measured
    assert measured is not None
    assert (measured["calibrated_on"], measured["compared_on"], measured["examples"]) == (
        f"train split of {PROBLEM}", f"dev split of {PROBLEM}", 150,
    )  # fmt: skip
    assert measured["reference_accuracy"] > 0.9
    assert measured["accuracy"] >= measured["reference_accuracy"] - measured["gate"]["max_accuracy_loss"]
    assert measured["identical"] > 0.95
    assert (measured["failures"], measured["forced"]) == ([], False)
    assert measured["bytes"] < measured["reference_bytes"]


def test_a_server_answers_by_the_variant_as_the_bundle_does_here(small: Path, folder: Folder, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in folder.rows()))
    asked = ("--json", rows, "--top-k", "2")
    with running_server(small) as port:
        served = answers("--server", f"127.0.0.1:{port}", *asked)
    assert served == answers("--bundle", small, *INT8, *asked)
    whole = answers("--bundle", small, "--variant", "cpu-float32", *asked)
    assert served != whole
    signs = ["high" if sum(row.values()) > 0 else "low" for row in folder.rows()]
    for found in (served, whole):
        assert np.mean([one["labels"][0]["label"] == sign for one, sign in zip(found, signs, strict=True)]) > 0.85


def test_a_variant_that_loses_too_much_is_refused_unless_forced(folder: Folder, tmp_path: Path, run: Command) -> None:
    words = ["optimize", "--bundle", folder.bundle, "--output", tmp_path / "out", *INT8, "--output-dir", folder.far]
    outcome = t2tdeploy(*words)
    assert outcome.status == 1
    assert [line.split()[0] for line in outcome.stdout.splitlines() if line.endswith("  refused")] == ["cpu-int8"]
    assert "error: too far from float32, so nothing is written:\n  cpu-int8: accuracy 0." in outcome.stderr
    assert "below the 0." in outcome.stderr
    assert re.search(r"of float32, that is \d+ of \d+ examples, more than 0\.005", outcome.stderr)
    assert "--max-accuracy-loss" in outcome.stderr
    assert not (tmp_path / "out").exists()
    assert run(*words, "--force").status == 0
    measured = load_bundle(tmp_path / "out").manifest.variants["cpu-int8"].measured
    assert measured is not None
    assert measured["forced"]
    assert measured["accuracy"] < measured["reference_accuracy"] - 0.1
    assert len(measured["failures"]) == 1


def test_data_of_another_model_are_refused(folder: Folder, tmp_path: Path, fails: Fails) -> None:
    words = ["optimize", "--bundle", folder.bundle, "--output", tmp_path / "out", *INT8, "--output-dir"]
    command("datagen", "--problem", "iris", "--data-dir", tmp_path / "data")
    train(tmp_path / "data", tmp_path / "iris", 1, problem="iris")
    help = f"it was trained from {folder.path / 'data-near'}"
    fails(2, [*words, tmp_path / "iris"], "'a_number' in the data directory is not what", "there are only sepal", help)
    (tmp_path / "train.csv").write_text((folder.path / "far.csv").read_text())
    options = ("--source-dir", tmp_path, "--problem-options", "train=train.csv,target=sign")
    command("datagen", "--problem", PROBLEM, "--data-dir", tmp_path / "data", *options)
    train(tmp_path / "data", tmp_path / "others", 1)
    fails(2, [*words, tmp_path / "others"], "'a_number' in the data directory is not what", "fitted on other rows")


def test_options_of_translation_are_refused(folder: Folder, tmp_path: Path, fails: Fails) -> None:
    words = ["optimize", "--bundle", folder.bundle, "--output", tmp_path / "out", *INT8, "--min-agreement", "0.5"]
    fails(2, words, "--min-agreement is for models that translate; this one has 'classify'")
