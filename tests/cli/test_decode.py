"""`t2tdeploy decode` at a terminal and elsewhere; the search is another's test."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from t2tdeploy.cli import runs
from t2tdeploy.cli.main import _prepare_streams
from t2tdeploy.errors import InputError
from t2tdeploy.training import evaluate
from t2tdeploy.training.run_directory import RunDirectory

HPARAMS = SimpleNamespace(beam_size=1, alpha=0.6, extra_length=5, batch_size=9, max_length=50)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def typed(text: str) -> io.TextIOWrapper:
    """A terminal at which these lines are typed, and then Ctrl-D."""
    return io.TextIOWrapper(Terminal(text.encode()), encoding="utf-8")


@pytest.fixture(autouse=True)
def a_run_that_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    def translate(model: Any, tokenizers: Any, sources: list[str], **_: Any) -> list[str]:
        return [f"{source}\n{source}" for source in sources]

    run = SimpleNamespace(hparams=HPARAMS, tokenizers=None, checkpoint_path=lambda name: Path(name))
    monkeypatch.setattr(RunDirectory, "open", lambda path: run)
    monkeypatch.setattr(runs, "_model", lambda *_: SimpleNamespace(autoregressive=True))
    monkeypatch.setattr(evaluate, "translate", translate)


def decode(*words: str | Path) -> None:
    runs.decode.main(["--output-dir", "run", *map(str, words)], standalone_mode=False)


def test_a_terminal_is_answered_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", typed("eins\nzwei\n"))
    decode()
    assert capsys.readouterr().out == "> eins eins\n> zwei zwei\n> "


def test_a_terminal_fills_a_file_when_it_is_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", typed("eins\nzwei\n"))
    decode("--output", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "eins eins\nzwei zwei\n"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Ctrl-D" in captured.err


def test_a_terminal_is_answered_in_json_when_it_is_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", typed("eins\n"))
    decode("--json")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"source": "eins", "translation": "eins\neins"}
    assert "Ctrl-D" in captured.err


def test_what_is_typed_is_utf8_whatever_the_locale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Terminal("Käse\n".encode()), encoding="ascii"))
    _prepare_streams()
    decode()
    assert capsys.readouterr().out == "> Käse Käse\n> "


def test_a_closed_input_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="there is no standard input"):
        decode()
