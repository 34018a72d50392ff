"""Standard streams that are closed, or of another encoding than UTF-8."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle
from tests.integration.commands import ENVIRONMENT, arguments
from tests.serving.toy_bundle import write_toy_bundle

SENTENCE = "Käse “ß” 奶酪"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def shell(redirection: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command whose streams a shell redirects, as in `<&-`."""
    line = ["sh", "-c", f'exec "$@" {redirection}', "sh", *arguments(*words)]
    kept = {name: value for name, value in ENVIRONMENT.items() if name not in ("PYTHONUTF8", "LC_ALL")}
    found = subprocess.run(
        line, input=f"{SENTENCE}\n".encode(), capture_output=True, env={**kept, **environment}, timeout=120, check=False
    )
    assert b"Traceback" not in found.stderr + found.stdout
    return found


def test_a_closed_input_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    for words in (
        ["translate", "--bundle", bundle.directory],
        ["classify", "--bundle", bundle.directory],
        ["load-test", "--server", "127.0.0.1:1", "--input", "-"],
    ):
        found = shell("<&-", *words)
        assert found.returncode == 2
        assert b"error: there is no standard input: it is closed\nhelp: " in found.stderr
    found = shell("<&-", "translate", "--bundle", bundle.directory, SENTENCE)
    assert (found.returncode, found.stdout.decode()) == (0, f"{SENTENCE}\n")


def test_a_closed_output_is_an_error_before_the_work(bundle: Bundle, tmp_path: Path) -> None:
    for words in (
        ["translate", "--bundle", "nowhere"],
        ["translate", "--bundle", "nowhere", "--document", "nowhere"],
        ["classify", "--bundle", "nowhere"],
        ["score", "--bundle", "nowhere", "--source", "nowhere", "--target", "nowhere"],
    ):
        found = shell(">&-", *words)
        assert found.returncode == 1
        assert b"error: there is no standard output: it is closed\nhelp: " in found.stderr
    found = shell(">&-", "translate", "--bundle", bundle.directory, "--output", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "out").read_text(encoding="utf-8") == f"{SENTENCE}\n"


def test_errors_do_not_go_to_the_output_where_there_is_no_place_for_them(bundle: Bundle) -> None:
    found = shell("2>&-", "translate", "--bundle", "nowhere", SENTENCE)
    assert (found.returncode, found.stdout) == (2, b"")
    found = shell("2>&-", "translate", "--bundle", bundle.directory)
    assert (found.returncode, found.stdout.decode()) == (0, f"{SENTENCE}\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_translations_are_utf8_as_sentences_are(bundle: Bundle, encoding: str) -> None:
    found = shell("", "translate", "--bundle", bundle.directory, PYTHONIOENCODING=encoding)
    assert (found.returncode, found.stdout.decode()) == (0, f"{SENTENCE}\n")
    found = shell("", "translate", "--bundle", f"{SENTENCE}\udcff", "a", PYTHONIOENCODING=encoding)
    assert found.returncode == 2
    assert f"{SENTENCE}\\udcff is not a bundle" in found.stderr.decode()


def test_the_name_alone_shows_the_help_as_it_is() -> None:
    found = shell("")
    assert found.returncode == 2
    assert found.stderr.startswith(b"Usage: ")
    assert b"The road, on the embedded data" in found.stderr
