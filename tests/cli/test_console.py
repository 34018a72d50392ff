"""How commands speak: on a terminal, to a file, to a program."""

from __future__ import annotations

import io
import json

import pytest

from t2tdeploy.cli import console
from t2tdeploy.cli.console import make_reporter, print_error, print_result
from t2tdeploy.errors import UserError
from t2tdeploy.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(reporter: Reporter) -> None:
    """Everything a reporter may be told, tasks within tasks included."""
    with reporter.task("outer", 2, "epochs") as outer:
        for epoch in range(2):
            with reporter.task("inner [x]", None, "steps") as inner:
                inner.advance()
                inner.advance(2, loss=2.125, rate=12345.6)
                reporter.message("a line with [brackets] and Käse")
            reporter.event("evaluation", step=epoch, loss=0.5, best=None)
            outer.advance(bleu=1.0)
    with reporter.task("last", 0, "files"):
        pass


def test_plain_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    work(make_reporter(False))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "a line with [brackets] and Käse",
        "inner [x]  3 steps  loss 2.125  rate 12,346",
        "evaluation  step 0  loss 0.5  best None",
        "a line with [brackets] and Käse",
        "inner [x]  3 steps  loss 2.125  rate 12,346",
        "evaluation  step 1  loss 0.5  best None",
        "outer  2/2 epochs  bleu 1",
        "last  0/0 files",
    ]


def test_long_work_writes_lines_in_between(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_PLAIN_INTERVAL_SECONDS", 0.0)
    with make_reporter(False).task("reading", 3, "lines") as task:
        for _ in range(3):
            task.advance()
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["1/3", "2/3", "3/3", "3/3"]


def test_work_that_fails_does_not_say_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError), make_reporter(False).task("reading", 3, "lines"):
        raise UserError("stop")
    assert capsys.readouterr().err == ""


def test_programs_get_json_lines_with_the_result_last(capsys: pytest.CaptureFixture[str]) -> None:
    work(make_reporter(True))
    print_result({"step": 3, "text": "Käse\n"}, as_json=True)
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {"event": "evaluation", "step": 0, "loss": 0.5, "best": None},
        {"event": "evaluation", "step": 1, "loss": 0.5, "best": None},
        {"step": 3, "text": "Käse\n"},
    ]
    assert "a line with [brackets]" in captured.err


def test_a_terminal_gets_bars_and_lines_above_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    reporter = make_reporter(False)
    work(reporter)
    work(reporter)  # bars can be started again
    with pytest.raises(UserError), reporter.task("failing", 1, "files"):
        raise UserError("stop")
    shown = terminal.getvalue()
    for words in ("outer", "inner [x]", "a line with [brackets] and Käse", "evaluation  step 1", "failing"):
        assert words in shown, words
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor comes back
    assert capsys.readouterr().out == ""


def test_results_and_errors_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"bleu": 34.21111, "step": 12000, "rate": 1234.5}, as_json=False)
    print_result({}, as_json=False)
    print_error(UserError("no file 'a'", help="look again"), as_json=False)
    print_error(UserError("no help"), as_json=False)
    captured = capsys.readouterr()
    assert captured.out == "bleu  34.21\nstep  12000\nrate  1,234\n"
    assert captured.err == "error: no file 'a'\nhelp: look again\nerror: no help\n"


def test_errors_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(UserError("no file 'Käse'", help=None), as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.err) == {"error": "no file 'Käse'", "help": None}
    assert captured.out == ""
