"""serve --check: what it prints and how it ends. Errors become exit codes in main, by the class that is raised."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from t2tdeploy.cli.deploy import serve
from t2tdeploy.errors import CorruptFileError, InputError, OperationalError, SettingsError, UnknownNameError, UserError
from tests.serving.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 of a model is fine, 2 is broken."""
    root = tmp_path_factory.mktemp("repository")
    for number in (1, 2):
        write_toy_bundle(root / "toy" / str(number))
    (root / "toy" / "2" / "model.onnx").write_bytes(b"broken")
    return root


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers


def check(*words: object, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(serve, [*map(str, words), "--check"], env=environment)


def test_what_would_be_served_is_told_with_the_source_of_every_option(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text(f'bundles = ["{repository / "toy" / "1"}"]\nport = 1\nthreads = 1\n')
    variables = {"T2TDEPLOY_SERVE_PORT": "2", "T2TDEPLOY_SERVE_MAX_BATCH_SIZE": "8"}
    words = ("--config", tmp_path / "serve.toml", "--options", "max_batch_size=16")
    result = check(*words, environment=variables)
    assert result.exit_code == 0, result.exception
    table = result.stdout.splitlines()
    assert table[0].split() == ["model", "version", "content", "variant", "state"]
    assert table[1].split()[:2] == ["toy", "1"]
    assert table[1].endswith("would be served")
    assert "port = 2  (T2TDEPLOY_SERVE_PORT)" in table
    assert "max_batch_size = 16  (--options max_batch_size)" in table
    assert f"threads = 1  ({tmp_path}/serve.toml, threads)" in table
    said = json.loads(check(*words, "--json", environment=variables).stdout)
    assert [(one["name"], one["number"], one["fault"]) for one in said["models"]] == [("toy", 1, "")]
    assert (said["options"]["port"], said["sources"]["port"]) == (2, "T2TDEPLOY_SERVE_PORT")


def test_a_broken_version_is_told_and_fails(repository: Path) -> None:
    result = check("--repository", repository, "--versions", "all", "--threads", "1")
    assert isinstance(result.exception, OperationalError)
    assert "not everything could be served: toy:2" in str(result.exception)
    lines = result.stdout.splitlines()
    assert lines[1].endswith("would be served")
    assert lines[2].endswith("model.onnx is damaged: its checksum does not match")


def test_a_model_that_cannot_be_looked_at_is_told_by_its_name(tmp_path: Path) -> None:
    write_toy_bundle(tmp_path / "seen" / "1")
    (tmp_path / "shut").symlink_to("shut")
    result = check("--repository", tmp_path, "--threads", "1")
    assert str(result.exception) == "not everything could be served: shut"
    assert "shut cannot be read: Too many levels of symbolic links" in result.stdout


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--bundle", "toy/2"], CorruptFileError, "its checksum does not match"),
        (["--bundle", "nowhere"], InputError, "is not a bundle"),
        (["--repository", "nowhere"], InputError, "is not a folder"),
        (["--bundle", "toy/1", "--repository", "."], UserError, "both given: choose one"),
        ([], UserError, "give one of them"),
        (["--bundle", "toy/1", "--port", "many"], SettingsError, "--port = 'many'"),
        (["--bundle", "toy/1", "--tls-key", "key"], SettingsError, r"tls_key needs tls_certificate \(--tls-key\)"),
        (["--bundle", "toy/1", "--token-file", "nowhere"], InputError, "nowhere cannot be read"),
        (["--bundle", "toy/1", "--alias", "a=b"], UnknownNameError, "unknown model of the alias 'a' 'b'"),
        (
            ["--repository", ".", "--alias", "production=toy:1", "--alias", "old=toy:7"],
            UnknownNameError,
            "unknown version of the alias 'old' 'toy:7'; valid choices: toy:1, toy:2",
        ),
        (["--bundle", "toy/1", "--options", "port=1,port=2"], SettingsError, "--options port = '2': it is given twice"),
    ],
)
def test_what_keeps_a_server_from_starting_fails_the_check(
    repository: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: type[Exception], said: str
) -> None:
    monkeypatch.chdir(repository)
    result: Any = check(*words)
    assert type(result.exception) is error
    with pytest.raises(error, match=said):
        raise result.exception
