"""What options take, whatever the command."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from t2tdeploy.cli.main import commands
from t2tdeploy.cli.options import SECURITY_NAMES, security_of
from t2tdeploy.errors import InputError
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import write_tensor_regressor, write_text_classifier

OF_PATHS = {
    (name, parameter.opts[0]): parameter
    for name, command in commands.commands.items()
    for parameter in command.params
    if isinstance(parameter.type, click.Path)
}

TOKEN = "0123456789abcdef"
NOTHING = dict.fromkeys(SECURITY_NAMES)
RANGES = [
    (command.name, option)
    for command in commands.commands.values()
    for option in command.params
    if isinstance(option.type, click.FloatRange)
]


@pytest.mark.parametrize("parameter", OF_PATHS.values(), ids=map(" ".join, OF_PATHS))
def test_an_empty_path_is_none(parameter: click.Parameter) -> None:
    """To Python it is the folder that the command runs in."""
    with pytest.raises(click.BadParameter, match="the path is empty"):
        parameter.type.convert("", parameter, None)


def test_options_of_paths_are_found() -> None:
    found = {("translate", "--input"), ("load-test", "--input"), ("train", "--warm-start"), ("export", "--output")}
    assert found | {("translate-corpus", "--input"), ("benchmark", "--bundle")} <= OF_PATHS.keys()


OF_SERVERS = [
    ["--timeout", "5"], ["--priority", "0"], ["--model", "m"], ["--tls"], ["--tls-ca", "f"], ["--tls-certificate", "f"],
    ["--tls-key", "f"], ["--token-file", "f"], ["--insecure-token"],
]  # fmt: skip


def refusal(name: str, *words: str | Path) -> str:
    """What is said where options do not go together."""
    with pytest.raises(click.UsageError) as caught:
        commands.commands[name].main([str(word) for word in words], standalone_mode=False)
    return caught.value.message


@pytest.mark.parametrize("option", OF_SERVERS, ids=lambda option: option[0])
def test_a_bundle_has_no_use_for_options_of_a_server(option: list[str]) -> None:
    for name, *asked in (["translate", "a"], ["translate", "--document", "f"], ["classify", "a"]):
        assert refusal(name, "--bundle", "b", *asked, *option) == f"{option[0]} is for a server: leave it out"


def test_the_environment_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("T2TDEPLOY_TOKEN", "a-token")
    bundle = write_toy_bundle(tmp_path / "toy")
    commands.commands["translate"].main(["--bundle", str(bundle.directory), "a"], standalone_mode=False)
    assert capsys.readouterr().out == "a\n"


@pytest.mark.parametrize(
    "option",
    [
        ["--calibration", "f"], ["--parallel-source", "f", "--parallel-target", "f"], ["--shortlist-width", "9"],
        ["--dev-source", "f"], ["--output-dir", "run"], ["--min-agreement", "0.5"], ["--max-bleu-loss", "1"],
        ["--max-accuracy-loss", "1"], ["--force"],
    ],
    ids=lambda option: option[0],
)  # fmt: skip
def test_another_default_alone_measures_nothing(option: list[str]) -> None:
    said = refusal("optimize", "--bundle", "b", "--output", "o", "--default", "cpu-float32", *option)
    assert said == f"{option[0]} is for variants that are made: give --variant"


@pytest.mark.parametrize(
    "option", [["--parallel-source", "f", "--parallel-target", "f"], ["--shortlist-width", "9"]], ids=lambda one: one[0]
)
def test_options_of_a_shortlist_need_one(option: list[str]) -> None:
    said = refusal("optimize", "--bundle", "b", "--output", "o", "--variant", "cpu-int8", *option)
    assert said == f"{option[0]} is for --variant cpu-int8-shortlist"


def test_bounds_are_those_of_what_the_model_does(tmp_path: Path) -> None:
    translates, classifies = write_toy_bundle(tmp_path / "toy"), write_text_classifier(tmp_path / "texts")
    regresses = write_tensor_regressor(tmp_path / "tensor")
    for bundle, option, task in (
        (translates, "--max-accuracy-loss", "classify"),
        (regresses, "--max-accuracy-loss", "classify"),
        (regresses, "--min-agreement", "translate"),
        (classifies, "--max-bleu-loss", "translate"),
    ):
        words = ("--bundle", bundle.directory, "--output", tmp_path / "out", "--variant", "cpu-int8", option, "0.5")
        own = bundle.manifest.task
        assert refusal("optimize", *words) == f"{option} is for models that {task}; this one has '{own}'"


def test_sentences_for_a_check_that_is_not_made() -> None:
    from_bundle = ("--from-bundle", "b", "--output", "o", "--format")
    for more in ([], ["--text-graph"]):
        said = refusal("export", *from_bundle, "triton", "--parity-input", "f", *more)
        assert said == "--parity-input is for a run (--output-dir) or a text graph: nothing is compared here"
    said = refusal("export", *from_bundle, "text", "--parity-sentences", "3")
    assert said == "--parity-sentences of a bundle counts those of --parity-input"


@pytest.mark.parametrize(("command", "option"), RANGES, ids=[f"{name} {one.opts[-1]}" for name, one in RANGES])
def test_no_range_of_numbers_has_nan_and_only_timeouts_have_infinity(command: str, option: click.Parameter) -> None:
    with pytest.raises(click.BadParameter, match="nan is not a"):
        option.type.convert("nan", option, None)
    if option.name == "timeout":
        assert option.type.convert("inf", option, None) == float("inf")
    else:
        with pytest.raises(click.BadParameter, match="inf is not"):
            option.type.convert("inf", option, None)


def test_there_are_ranges_to_look_at() -> None:
    assert {("load-test", "duration"), ("translate", "timeout"), ("translate", "alpha")} <= {
        (command, option.name) for command, option in RANGES
    }


@pytest.mark.parametrize("text", [TOKEN, f"{TOKEN}\n", f" {TOKEN}\r\n"])
def test_the_token_of_the_environment_may_have_white_space_around_it(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """As `export T2TDEPLOY_TOKEN="$(…)"` leaves it in some shells, and files of secrets do."""
    monkeypatch.setenv("T2TDEPLOY_TOKEN", text)
    assert security_of(NOTHING).metadata("localhost:1") == (("authorization", f"Bearer {TOKEN}"),)


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_variable_is_no_token(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("T2TDEPLOY_TOKEN", text)
    assert security_of(NOTHING).token is None


def test_a_variable_that_holds_no_token_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("T2TDEPLOY_TOKEN", f"{TOKEN}\n{TOKEN}")
    with pytest.raises(InputError, match=r"^the variable T2TDEPLOY_TOKEN has characters that no token has"):
        security_of(NOTHING)
    (tmp_path / "token").write_text(TOKEN)
    assert security_of({**NOTHING, "token_file": tmp_path / "token"}).token == TOKEN
