"""Tables out of files: what is read, what is left out and counted, what is an error."""

from __future__ import annotations

import datetime
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from t2tdeploy.columns.values import RawColumn
from t2tdeploy.errors import CorruptFileError, InputError, T2TDeployError
from t2tdeploy.problems.rows import Rows, as_numbers
from t2tdeploy.problems.tables import read_table, table_format
from t2tdeploy.problems.text import BadLines


def read(folder: Path, content: bytes, name: str = "a.csv", **options: Any) -> tuple[Rows, BadLines]:
    path, bad_lines = folder / name, BadLines()
    path.write_bytes(content)
    return read_table(path, table_format(path), bad_lines, **options)[0], bad_lines


def values(rows: Rows) -> dict[str, list[Any]]:
    return {name: list(column) for name, column in rows.columns.items()}


def test_values_stay_as_they_are_written(tmp_path: Path) -> None:
    rows, bad_lines = read(tmp_path, 'zip,"city" ,x\n007, Köln ,1e3\n08,"a, ""b""\nc",\n'.encode())
    assert values(rows) == {"zip": ["007", "08"], "city": ["Köln", 'a, "b"\nc'], "x": ["1e3", ""]}
    assert bad_lines.count == 0


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.tsv", b"a\tb\n1\t2\n", {}),
        ("a.csv", b"a;b\n1;2\n", {"separator": ";"}),
        ("a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n", {}),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), {}),
        ("a.csv", b"\n\r\na,b\n1,2\n", {}),
    ],
)
def test_ways_to_write_a_table(tmp_path: Path, name: str, content: bytes, options: dict[str, Any]) -> None:
    rows, _ = read(tmp_path, content, name, **options)
    assert values(rows) == {"a": ["1"], "b": ["2"]}


def test_a_name_may_be_several_lines(tmp_path: Path) -> None:
    assert values(read(tmp_path, b'"a\nx",b\n1,2\n')[0]) == {"a\nx": ["1"], "b": ["2"]}


def test_blank_lines_before_the_names_are_no_rows(tmp_path: Path) -> None:
    _, bad_lines = read(tmp_path, b"\na,b\n1,2\n3\n")
    assert bad_lines.to_json()[0]["first_lines"] == [2]


def test_columns_without_names_have_numbers(tmp_path: Path) -> None:
    assert values(read(tmp_path, b"1,2\n3,4\n", header=False)[0]) == {"0": ["1", "3"], "1": ["2", "4"]}
    assert list(read(tmp_path, b",a\n0,2\n")[0].columns) == ["column_1", "a"]


def test_ragged_rows_are_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    rows, bad_lines = read(tmp_path, b"a,b\n1,2\n3\n4,5\n6,7,8\n9,x\n")
    assert bad_lines.to_json() == [
        {"file": "a.csv", "reason": "1 values instead of 2", "count": 1, "first_lines": [2]},
        {"file": "a.csv", "reason": "3 values instead of 2", "count": 1, "first_lines": [4]},
    ]
    with pytest.raises(InputError, match=r"^a.csv, row 5, column 'b': 'x' is not a number$"):
        rows.raw(RawColumn("b", "number"))


def test_parquet(tmp_path: Path) -> None:
    table = {
        "int": [1, None],
        "bool": [True, None],
        "text": [" x ", None],
        "category": pyarrow.array(["p", "q"]).dictionary_encode(),
        "date": [datetime.datetime(2026, 1, 1)] * 2,
        "list": [[1], [2]],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    rows, unusable = read_table(tmp_path / "a.parquet", "parquet", BadLines())
    np.testing.assert_array_equal(rows.columns["int"], [1, np.nan])
    assert list(rows.columns["bool"]) == ["true", ""]
    assert list(rows.columns["text"]) == ["x", ""]
    assert list(rows.columns["category"]) == ["p", "q"]
    assert unusable == {"date": "timestamp[us]", "list": "list<element: int64>"}


@pytest.mark.parametrize(
    ("name", "content", "error", "message", "help"),
    [
        ("a.csv", b"", CorruptFileError, "Empty CSV file", "format"),
        ("a.csv", b"a,b\n", InputError, "has no rows", ""),
        ("a.csv", "a,b\nä,1\n".encode("latin1"), CorruptFileError, "invalid UTF8", "save the file as UTF-8"),
        ("a.csv", b"a,a\n1,2\n", InputError, "has two columns called 'a'", "name of its own"),
        ("a.csv", b"a;b\n1;2\n", InputError, "has one column, 'a;b'", "say separator=;"),
        ("a.tsv", b"a,b\n1,2\n", InputError, "has one column, 'a,b'", "say format=csv"),
        ("a.csv", b'a,b\n1,2\n3,"4\n5,6\n', InputError, "from line 3 on: a quote is opened and never closed", "two "),
        ("a.csv", b'a,b,c\n1,2,3\n4,"5,6\n' + b"7,8,9\n" * 90, InputError, "from line 3 on: a quote is opened", "two "),
        ("a.csv", b'a,b,c\n4,"5,6\n' + b"7,8,9\n" * 90, InputError, "from line 2 on: a quote is opened", "two "),
        ("a.csv", b'a,b\n1,"open\n2,"x"\n3,y\n', InputError, "from line 2 on: a quote is opened", "two "),
        ("a.csv", b'a,b\n0,0\n1,"open\n2,"x"\n3,"y\n4,"z"\n', InputError, "from line 3 on: a quote is", "two "),
        ("a.csv", b'a,b\r1,"open\r2,"x"\r3,y\r', InputError, "from line 2 on: a quote is opened", "two "),
        ("a.csv", b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 800_000, InputError, "from line 3 on: a quote is opened", "two "),
        ("a.csv", b"a,b\n" + b"1,2,3\n" * 60, InputError, "none of the 60 rows of", "separated by commas?"),
        ("a.tsv", b"a\tb\tc\n1\t2\n", InputError, "has 3 values, as its first line has", "separated by tabs?"),
        ("a.csv", "größe,b\n1,2\n".encode("latin1"), CorruptFileError, "not UTF-8", "save the file as UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), CorruptFileError, "not UTF-8", "save the file as UTF-8"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:30], CorruptFileError, "Truncated", "fetch"),
        ("a.parquet", b"a,b\n", CorruptFileError, "Parquet", "format"),
        ("a.xlsx", b"", InputError, "cannot tell the format", "say format=csv, tsv or parquet"),
    ],
)
def test_what_is_no_table(
    tmp_path: Path, name: str, content: bytes, error: type[T2TDeployError], message: str, help: str
) -> None:
    with pytest.raises(error) as caught:
        read(tmp_path, content, name)
    assert message in str(caught.value)
    assert help in (caught.value.help or "")


@pytest.mark.parametrize("lines", [20_000, 400_000])
def test_values_may_be_whole_documents(tmp_path: Path, lines: int) -> None:
    document = "one line\n" * lines
    rows, _ = read(tmp_path, f'a,b\n"{document}",1\n'.encode())
    assert values(rows) == {"a": [document.strip()], "b": ["1"]}


def test_a_row_that_is_too_long_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2tdeploy.problems.tables.MOST_BYTES", 1000)
    content = b"a,b\n" + b"1,2\n" * 300 + b"3," + b"4" * 3000 + b"\n" + b"5,6\n" * 300
    with pytest.raises(InputError, match="a row of more than 1000 bytes"):
        read(tmp_path, content)
    with pytest.raises(InputError, match="from line 302 on: a quote is opened and never closed"):
        read(tmp_path, content.replace(b"3,4", b'3,"4'))


def test_a_short_last_row_after_a_mark_of_inches_is_left_out(tmp_path: Path) -> None:
    """An odd number of quotes alone says nothing: one within a value is none."""
    rows, bad_lines = read(tmp_path, b'a,b\n5" pipe,2\n3\n')
    assert values(rows) == {"a": ['5" pipe'], "b": ["2"]}
    assert bad_lines.count == 1


def test_whole_numbers_that_floats_do_not_tell_apart_are_texts(tmp_path: Path) -> None:
    ids = [2**53 + offset for offset in range(4)]
    pyarrow.parquet.write_table(pyarrow.table({"id": [*ids, None], "n": [1, 2, 3, 4, None]}), tmp_path / "a.parquet")
    rows, _ = read_table(tmp_path / "a.parquet", "parquet", BadLines())
    assert rows.columns["id"].tolist() == [*map(str, ids), ""]
    np.testing.assert_array_equal(rows.columns["n"], [1, 2, 3, 4, np.nan])


def test_float32_numbers_are_as_they_are_written(tmp_path: Path) -> None:
    numbers = pyarrow.array([0.1, 0.7, None, 3e38], pyarrow.float32())
    pyarrow.parquet.write_table(pyarrow.table({"x": numbers}), tmp_path / "a.parquet")
    rows, _ = read_table(tmp_path / "a.parquet", "parquet", BadLines())
    np.testing.assert_array_equal(rows.columns["x"], [0.1, 0.7, np.nan, 3e38])


def test_numbers_are_numbers_only_if_all_are() -> None:
    def column(*found: str) -> Any:
        array = np.empty(len(found), object)
        array[:] = found
        return as_numbers(array)

    np.testing.assert_array_equal(column("1", "NA", "", "-1e3"), [1, np.nan, np.nan, -1000])
    assert column("1", "x") is None
    assert column("1", "1_0") is None
    assert column("", "NA") is None
