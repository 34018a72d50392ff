"""Where commands write: found out before the work, and no measurement is lost that could be printed."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import pytest

from t2tdeploy.cli import main
from t2tdeploy.errors import InputError
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle

TEXT_COMMANDS = [
    ["translate", "--bundle", "nowhere", "a"],
    ["translate", "--bundle", "nowhere", "--document", "nowhere"],
    ["classify", "--bundle", "nowhere", "a"],
    ["score", "--bundle", "nowhere", "--source", "nowhere", "--target", "nowhere"],
    ["decode", "--output-dir", "nowhere"],
    ["load-test", "--server", "nowhere", "a"],
]


def invoke(*words: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main.commands, [str(word) for word in words], standalone_mode=False)


@pytest.mark.parametrize("command", TEXT_COMMANDS, ids=lambda words: " ".join(words[:1] + words[3:]))
def test_an_output_that_cannot_be_written_comes_first(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = invoke(*command, "--output", tmp_path / "file" / "out").exception
    assert isinstance(error, InputError)
    assert f"{tmp_path / 'file'} is not a folder that may be written to" in error.message


def test_a_dash_is_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_toy_bundle(tmp_path / "toy")
    command = ("translate", "--bundle", "toy", "ab")
    assert invoke(*command, "--output", "-").output == invoke(*command).output != ""
    assert not (tmp_path / "-").exists()


def test_pictures_that_cannot_be_written_come_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ["evaluate", "--output-dir", "nowhere", "--pictures", tmp_path / "file" / "pictures"]
    for command in (
        words,
        ["benchmark", "--bundle", "nowhere", "--plot", tmp_path / ("n" * 250 + ".png")],
        ["load-test", "--server", "nowhere", "a", "--plot", tmp_path / ("n" * 250 + ".png")],
    ):
        error = invoke(*command).exception
        assert isinstance(error, InputError)
        assert "cannot write" in error.message


def no_space(*_: object) -> None:
    raise OSError("no space")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_load_test_is_printed_before_it_is_written(
    tmp_path: Path, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("t2tdeploy.cli.load.write_text", "t2tdeploy.load_testing.plot.plot"):
        with running(write_toy_bundle(tmp_path / place)) as server, monkeypatch.context() as patch:
            patch.setattr(place, no_space)
            words = ["load-test", "--server", f"127.0.0.1:{server.port}", "Hello.", "--requests", 2, "--warm-up", 0]
            words += ["--concurrency", 1, "--output", tmp_path / "load.json", "--plot", tmp_path / "load.png"]
            result = invoke(*words, *(["--json"] if as_json else []))
        assert isinstance(result.exception, OSError)
        assert_measured(result.stdout, "1 caller", as_json)
        assert "load.png" not in result.stdout, "it was not written"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_benchmark_is_printed_before_its_chart_is_drawn(
    tmp_path: Path, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    (tmp_path / "in").write_text("A house.\n")
    words = ["benchmark", "--bundle", bundle.directory, "--input", tmp_path / "in", "--batch-sizes", 1]
    words += ["--threads", 1, "--seconds", 0.1, "--plot", tmp_path / "chart.png"]
    monkeypatch.setattr("t2tdeploy.benchmark.plot.plot", no_space)
    result = invoke(*words, *(["--json"] if as_json else []))
    assert isinstance(result.exception, OSError)
    assert_measured(result.stdout, "cpu-float32", as_json)
    assert "written: " not in result.stdout


def assert_measured(printed: str, name: str, as_json: bool) -> None:
    if as_json:
        assert {"measurements", "speeds"} & json.loads(printed.splitlines()[-1]).keys()
    else:
        assert printed.splitlines()[1].startswith(name)
