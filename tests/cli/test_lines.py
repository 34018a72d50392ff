"""Sentences in and translations out, line by line."""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.cli.lines import read_lines, write_lines, write_text
from t2tdeploy.errors import InputError

SEPARATORS = "\u2028\u2029\u0085\x0b\x0c\x1c"  # str.splitlines would break a sentence there


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (None, Path("-")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa\nb\n")))
        assert read_lines(path) == ["a", "b"]
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
        with pytest.raises(InputError, match=r"^standard input, line 1: not UTF-8"):
            read_lines(path)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\n\n", ["a", ""]),
        (b"\n\na", ["", "", "a"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\n", ["a\rb"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        (b"a\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        (f"a{SEPARATORS}b\n".encode(), [f"a{SEPARATORS}b"]),
    ],
)
def test_only_a_newline_ends_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, lines: list[str]
) -> None:
    (tmp_path / "in.txt").write_bytes(content)
    assert read_lines(tmp_path / "in.txt") == lines
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert read_lines(None) == lines


@settings(max_examples=50)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\n\ufeff", exclude_categories=["Cs"])).filter(
            lambda line: not line.endswith("\r")
        )
    )
)
def test_written_lines_are_read_back(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.txt"
    write_lines(path, lines, lines, as_json=False)
    assert read_lines(path) == lines


def test_broken_utf8_is_an_error_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.txt").write_bytes(b"a\nb\nc \xff d\n")
    with pytest.raises(InputError, match=r"in.txt, line 3: not UTF-8") as caught:
        read_lines(tmp_path / "in.txt")
    assert caught.value.line == 3
    assert "iconv" in (caught.value.help or "")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\xff")))
    with pytest.raises(InputError, match="standard input, line 1"):
        read_lines(None)


def test_a_byte_order_mark_counts_as_no_character(tmp_path: Path) -> None:
    for content, line in ((b"\xef\xbb\xbfa\n\xff\n", 2), (b"\xef\xbb\xbf\na\n\n\xff", 4), (b"\xef\xbb\xbf\xff", 1)):
        (tmp_path / "in.txt").write_bytes(content)
        with pytest.raises(InputError, match=f"line {line}: not UTF-8"):
            read_lines(tmp_path / "in.txt")


def test_a_path_that_leads_to_no_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, words in ((tmp_path / "file" / "x", "no file .*/file/x"), (tmp_path, "is a folder, not a file")):
        with pytest.raises(InputError, match=words):
            read_lines(path)


def test_a_missing_file_meets_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "sentences.en").touch()
    with pytest.raises(InputError, match=r"no file .*sentence.en") as caught:
        read_lines(tmp_path / "sentence.en")
    assert caught.value.help == "did you mean 'sentences.en'?"
    with pytest.raises(InputError, match="no file") as caught:
        read_lines(tmp_path / "no" / "such" / "folder")
    assert caught.value.help is None


def test_a_translation_is_one_line_whatever_it_holds(tmp_path: Path) -> None:
    write_lines(tmp_path / "out", ["1", "2", "3"], ["eins", "zwei\nZeilen", ""], as_json=False)
    assert (tmp_path / "out").read_text() == "eins\nzwei Zeilen\n\n"


def test_json_lines_pair_source_and_translation(tmp_path: Path) -> None:
    write_lines(tmp_path / "out", ["cheese", "a"], ["Käse", "b\nc"], as_json=True)
    lines = (tmp_path / "out").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"source": "cheese", "translation": "Käse"},
        {"source": "a", "translation": "b\nc"},
    ]
    assert "Käse" in lines[0]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_text(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new\n" * 100_000 + "\ud800")
    assert path.read_text() == "old\n"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_without_a_path_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(None, ["a"], ["b"], as_json=False)
    assert capsys.readouterr().out == "b\n"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text, encoding="utf-8")
        write_text(pipe, "Grüße\n")
        assert read.result(timeout=10) == "Grüße\n"
    assert pipe.is_fifo()


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text(encoding="utf-8") == "new"
