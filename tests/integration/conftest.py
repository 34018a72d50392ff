"""One small run of the whole road, shared by the tests that look at its ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from t2tdeploy import registry
from t2tdeploy.cli.main import main
from tests.integration.commands import ENVIRONMENT, Outcome, succeed
from tests.sessions import made_once

Command = Callable[..., Outcome]
Fails = Callable[..., str]

PROBLEM = "translate_dates_ende"
DATA_OPTIONS = "train_examples=800,dev_examples=40,test_examples=40,vocab_size=500"
HPARAMS = (
    "hidden_size=32,filter_size=64,num_heads=2,num_encoder_layers=1,num_decoder_layers=1,"
    "dropout=0.1,batch_size=256,learning_rate_constant=1,extra_length=10"
)


def train_arguments(road: Path, run: Path, *, steps: int) -> list[str | Path]:
    return [
        "train", "--problem", PROBLEM, "--model", "transformer", "--hparams-set", "transformer_tiny",
        "--hparams", HPARAMS, "--data-dir", road / "data", "--output-dir", run, "--train-steps", str(steps),
        "--save-every", "10", "--eval-every", "20", "--log-every", "1", "--eval-sentences", "8", "--threads", "1",
    ]  # fmt: skip


@dataclass(frozen=True)
class Road:
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


@pytest.fixture(scope="session", autouse=True)
def _processes_share_the_cache(graph_cache: Path) -> Iterator[None]:
    """Of training graphs: the environment of commands was taken before `graph_cache` was named in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "T2TDEPLOY_CACHE", str(graph_cache.parent))
        yield


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """All sessions have the same, so that no test may change what is in it."""

    def make(folder: Path) -> None:
        road = Road(folder)
        succeed("datagen", "--problem", PROBLEM, "--data-dir", road.data, "--problem-options", DATA_OPTIONS)
        succeed(*train_arguments(road.folder, road.run, steps=40))
        succeed("export", "--output-dir", road.run, "--bundle", road.bundle, "--parity-sentences", "4")

    folder = made_once(tmp_path_factory, "road", make)
    before = contents(folder)
    yield Road(folder)
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of change, of everything in a folder."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process; what a `--usr-dir` registers is forgotten afterwards."""
    for known in (registry.problems, registry.models, registry.hparams_sets):
        known.names()
        monkeypatch.setattr(known, "_objects", dict(known._objects))

    def run(*words: str | Path) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["t2tdeploy", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def fails(run: Command) -> Callable[..., str]:
    """Runs a command line that must end with `status` and an error in these words; returns standard error."""

    def fails(status: int, words: list[str | Path], *expected: str) -> str:
        outcome = run(*words)
        lines = outcome.stderr.splitlines()
        assert outcome.status == status, outcome
        assert sum(line.startswith("error: ") for line in lines) == 1, outcome.stderr
        for text in expected:
            assert text in outcome.stderr, outcome.stderr
        return outcome.stderr

    return fails
