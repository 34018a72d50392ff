"""`translate --document`: what comes out is the document, translated."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.cli.translate import translate
from t2tdeploy.errors import InputError, RequestError
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle

DOCUMENT = "  One.  Two, e.g. this.\r\n\r\n\tEnd\u2028of it\n\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "letter"
    path.write_bytes(DOCUMENT.encode())
    return path


def ask(*arguments: str | Path) -> None:
    translate.main([str(one) for one in arguments], standalone_mode=False)


def test_a_bundle_and_a_server_write_the_same_file(bundle: Bundle, document: Path, tmp_path: Path) -> None:
    with running(bundle) as server:
        for place in (["--bundle", bundle.directory], ["--server", f"127.0.0.1:{server.port}", "--priority", "1"]):
            ask(*place, "--document", document, "--language", "en", "--output", tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == DOCUMENT.encode(), "the toy model translates a text into itself"
            (tmp_path / "out").unlink()


def test_sentences_as_json_say_where_they_are(
    bundle: Bundle, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask("--bundle", bundle.directory, "--document", document, "--json", "--num-hypotheses", "2")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["source"] for record in records] == ["One.", "Two, e.g. this.", "End", "of it"]
    for record in records:
        assert DOCUMENT[record["start"] : record["end"]] == record["source"]
        assert [one["text"] for one in record["hypotheses"]] == [record["source"]] * 2


def test_a_document_that_fails_leaves_no_file(bundle: Bundle, document: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        ask("--bundle", bundle.directory, "--document", document, "--beam-size", "9", "--alpha", "5",
            "--num-hypotheses", "10", "--json", "--output", tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no file") as caught:
        ask("--bundle", bundle.directory, "--document", tmp_path / "leter")
    assert caught.value.help == "did you mean 'letter'?"
    (tmp_path / "latin1").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        ask("--bundle", bundle.directory, "--document", tmp_path / "latin1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--document", "{document}", "text"], "sentences and --document are given: choose one"),
        (["--document", "{document}", "--input", "in"], "--input and --document are given: choose one"),
        (["--document", "{document}", "--target-prefix", "a"], "--target-prefix means nothing with --document"),
        (["--document", "{document}", "--target-prefixes", "a"], "--target-prefixes means nothing with --document"),
        (["--document", "{document}", "--num-hypotheses", "2"], "--num-hypotheses of a document needs --json"),
        (["--language", "de", "text"], "--language is for --document"),
        (["--priority", "0", "text"], "--priority is for a server"),
        (["--priority", "3", "text"], "-2<=x<=2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    bundle: Bundle, document: Path, arguments: list[str], words: str
) -> None:
    with pytest.raises(click.UsageError) as caught:
        ask("--bundle", bundle.directory, *(one.format(document=document) for one in arguments))
    assert words in caught.value.message
