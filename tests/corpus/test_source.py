"""What is refused of an input, and in which words."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.corpus.source import RowReader, find_files, open_files
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


def test_a_name_that_two_columns_have(tmp_path: Path) -> None:
    table = pyarrow.table([["a"], ["b"], ["c"], ["d"]], ["source", "source", "other", "other"])
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    assert "2 columns called 'source'" in refused(tmp_path / "in.parquet").message


def test_files_that_are_not_there_or_differ(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in" / "a.parquet", ["a"])
    assert refused(tmp_path / "in" / "b.parquet").help == "did you mean 'a.parquet'?"
    pyarrow.parquet.write_table(pyarrow.table({"source": ["a"]}), tmp_path / "in" / "b.parquet")
    assert "id is missing, not int32" in refused(tmp_path / "in").message
    (tmp_path / "empty").mkdir()
    assert "holds no .parquet file" in refused(tmp_path / "empty").message


def test_a_folder_gives_all_its_files_or_says_which_it_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("b.PARQUET", "a.parquet", "c.Parquet", "_old.parquet", ".hidden.parquet", "_old/d.parquet"):
        write_corpus(folder / name, ["a"])
    (folder / "README.md").touch()
    assert [file.name for file in find_files(folder)] == ["a.parquet", "b.PARQUET", "c.Parquet"]
    write_corpus(folder / "year=2024" / "d.parquet", ["a"])
    error = refused(folder)
    assert "holds .parquet files in folders of its own: year=2024/d.parquet" in error.message
    assert "one folder at a time" in (error.help or "")
    (folder / "year=2024").rename(folder / "spark.parquet")  # which names its folders like files
    assert "spark.parquet/d.parquet" in refused(folder).message
    assert [file.name for file in find_files(folder / "spark.parquet")] == ["d.parquet"]


def test_an_output_within_the_input_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the command is given again, there are parts in it."""
    for name in ("in/a.parquet", "in/out/part-00000-of-00001.parquet"):
        write_corpus(tmp_path / name, ["a"])
    monkeypatch.chdir(tmp_path)
    for output in (tmp_path / "in" / "out", Path("in/out"), Path("in/../in/out")):
        assert [file.name for file in find_files(Path("in"), output)] == ["a.parquet"]
    with pytest.raises(InputError, match=r"out/part-00000-of-00001.parquet"):
        find_files(Path("in"), Path("elsewhere"))


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


@given(data=st.data(), rows=st.integers(1, 20), group=st.integers(1, 7), columns=st.sampled_from([None, ["id"]]))
def test_any_rows_of_any_row_groups_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, data, rows: int, group: int, columns: list[str] | None
) -> None:
    path = write_corpus(
        tmp_path_factory.getbasetemp() / "any.parquet", [str(number) for number in range(rows)], row_group_size=group
    )
    with RowReader(columns) as reader:
        for _ in range(data.draw(st.integers(1, 5))):
            start = data.draw(st.integers(0, rows))
            stop = data.draw(st.integers(start, rows))
            found = reader.read(path, start, stop)
            assert found.column("id").to_pylist() == list(range(start, stop))
            assert found.column_names == (columns or reader.column_names(path))


def test_spans_of_several_files(tmp_path: Path) -> None:
    one, two = (write_corpus(tmp_path / name, [name, name, name]) for name in ("1.parquet", "2.parquet"))
    with RowReader(["source"]) as reader:
        for path in (one, two, two, one):
            assert reader.read(path, 1, 3).column("source").to_pylist() == [path.name] * 2


def test_names_with_dots_are_no_fields_of_others(tmp_path: Path) -> None:
    table = pyarrow.table({"a": [{"b": "field"}], "a.b": ["column"]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    with RowReader(["a.b"]) as reader:
        assert reader.read(tmp_path / "in.parquet", 0, 1).to_pylist() == [{"a.b": "column"}]
