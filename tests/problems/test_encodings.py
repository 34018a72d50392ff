"""A text file in another encoding is refused in every format; a few lines that are not UTF-8 are left out."""

from pathlib import Path

import pytest

from t2tdeploy.errors import InputError
from t2tdeploy.problems.encodings import FEWEST_LINES
from t2tdeploy.problems.row_files import Column, format_of, read_rows
from t2tdeploy.problems.text import BadLines, read_lines

HEADERS = {"a.tsv": "text\tlabel\n", "a.csv": "text,label\n", "a.jsonl": "", "a.txt": ""}
ROWS = {"a.tsv": "{}\t{}\n", "a.csv": "{},{}\n", "a.jsonl": '{{"text": "{}", "label": "{}"}}\n', "a.txt": "{} {}\n"}


def content(name: str, words: list[str]) -> str:
    return HEADERS[name] + "".join(ROWS[name].format(word, number) for number, word in enumerate(words))


def read(path: Path) -> BadLines:
    bad_lines = BadLines()
    if path.suffix == ".txt":
        list(read_lines(path))
    else:
        list(read_rows(path, format_of(path), [Column("text"), Column("label")], bad_lines))
    return bad_lines


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize(
    ("encoding", "mark", "said", "help"),
    [
        ("utf-16-le", b"\xff\xfe", "is UTF-16, by its byte order mark", "iconv -f utf-16 "),
        ("utf-16-be", b"\xfe\xff", "is UTF-16, by its byte order mark", "iconv -f utf-16 "),
        ("utf-32-le", b"\xff\xfe\0\0", "is UTF-32, by its byte order mark", "iconv -f utf-32 "),
        ("utf-32-be", b"\0\0\xfe\xff", "is UTF-32, by its byte order mark", "iconv -f utf-32 "),
        ("utf-16-le", b"", "line 1: a byte that is 0", "iconv -f utf-16le "),
        ("utf-16-be", b"", "line 1: a byte that is 0", "iconv -f utf-16le "),
    ],
)
def test_utf_16_and_32_are_refused_however_short(
    tmp_path: Path, name: str, encoding: str, mark: bytes, said: str, help: str
) -> None:
    (tmp_path / name).write_bytes(mark + content(name, ["one", "zwei"]).encode(encoding))
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message
    assert help in (caught.value.help or "")


@pytest.mark.parametrize("name", HEADERS)
def test_a_byte_that_is_0_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    text = content(name, ["one", "zw\0ei", "drei"])
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="a byte that is 0") as caught:
        read(tmp_path / name)
    assert caught.value.line == text[: text.index("\0")].count("\n") + 1
    assert "tr -d" in (caught.value.help or "")


@pytest.mark.parametrize("name", HEADERS)
def test_latin_1_is_refused_with_the_first_line_and_the_share(tmp_path: Path, name: str) -> None:
    text = content(name, [("Größe" if number % 4 == 3 else "Ma") for number in range(40)])
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    lines, first = text.count("\n"), text[: text.index("ö")].count("\n") + 1
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert f"10 of {lines} lines ({10 / lines:.0%}) are not UTF-8, the first is line {first}" in caught.value.message
    assert caught.value.line == first
    assert "iconv -f latin1 -t utf-8" in (caught.value.help or "")


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
@pytest.mark.parametrize(("lines", "broken"), [(60, 3), (FEWEST_LINES - 2, 2)])
def test_a_few_lines_are_left_out_and_counted(tmp_path: Path, name: str, lines: int, broken: int) -> None:
    text = content(name, ["ö" if number < broken else "o" for number in range(lines)])
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    bad_lines = read(tmp_path / name)
    assert bad_lines.count == broken
    assert bad_lines.reasons() == f"{broken} not UTF-8"


def test_reasons_come_with_their_numbers_the_commonest_first() -> None:
    bad_lines = BadLines()
    for file, reason in (("a", "empty"), ("a", "not UTF-8"), ("b", "empty")):
        bad_lines.add(file, 1, reason)
    assert bad_lines.reasons() == "2 empty, 1 not UTF-8"
