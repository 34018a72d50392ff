"""What is refused of an input, and in which words."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.corpus.source import find_files, open_files, read_rows
from t2tdeploy.errors import CorruptFileError, InputError
from tests.corpus.conftest import write_corpus

ADDED = ["translation", "score"]


def refused(path: Path, column: str = "source", added: list[str] = ADDED) -> InputError:
    with pytest.raises(InputError) as caught:
        open_files(find_files(path), column, added)
    return caught.value


def test_columns_that_are_not_there_not_text_or_taken(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "in.parquet", ["a"])
    assert refused(path, "sauce").help == "did you mean 'source'?"
    assert "valid columns: id, source, tags" in refused(path, "sauce").message
    assert "is int32, not text" in refused(path, "id").message
    assert "--translation-column" in (refused(path, "source", ["tags"]).help or "")


def test_files_that_are_not_there_or_differ(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in" / "a.parquet", ["a"])
    assert refused(tmp_path / "in" / "b.parquet").help == "did you mean 'a.parquet'?"
    pyarrow.parquet.write_table(pyarrow.table({"source": ["a"]}), tmp_path / "in" / "b.parquet")
    assert "id is missing, not int32" in refused(tmp_path / "in").message
    (tmp_path / "empty").mkdir()
    assert "holds no .parquet file" in refused(tmp_path / "empty").message


def test_what_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_text("source\nHello")
    with pytest.raises(CorruptFileError):
        open_files([tmp_path / "in.parquet"], "source", ADDED)


def test_fingerprints_tell_contents_apart(tmp_path: Path) -> None:
    one, two = (write_corpus(tmp_path / name, ["a", text]) for name, text in (("1.parquet", "b"), ("2.parquet", "c")))
    again = write_corpus(tmp_path / "3.parquet", ["a", "b"])
    found = [file.fingerprint for file in open_files([one, two, again], "source", ADDED)]
    assert found[0] != found[1]
    assert found[0] == found[2]


@given(data=st.data(), rows=st.integers(1, 20), group=st.integers(1, 7))
def test_any_rows_of_any_row_groups(tmp_path_factory: pytest.TempPathFactory, data, rows: int, group: int) -> None:
    path = write_corpus(
        tmp_path_factory.getbasetemp() / "any.parquet", [str(number) for number in range(rows)], row_group_size=group
    )
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    assert read_rows(path, start, stop).column("id").to_pylist() == list(range(start, stop))
