"""What is written in any format and compression is read back equal; whatever is wrong is named and counted."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.problems.pairs import read_pair_file
from t2tdeploy.problems.row_files import Column, format_of, read_rows
from t2tdeploy.problems.text import BadLines, read_pairs

Pairs = Sequence[tuple[str, str]]

COMPRESSIONS = {"": None, ".gz": "gzip", ".zst": "zstd"}


def write(path: Path, content: bytes) -> Path:
    with pyarrow.output_stream(
        str(path), compression=COMPRESSIONS[path.suffix if path.suffix in COMPRESSIONS else ""]
    ) as file:
        file.write(content)
    return path


def write_tsv(path: Path, pairs: Pairs) -> Path:
    return write(path, "".join(f"{source}\t{target}\n" for source, target in pairs).encode())


def write_tsv_with_header(path: Path, pairs: Pairs) -> Path:
    return write(path, "".join(f"{t}\t7\t{s}\n" for s, t in [("src", "tgt"), *pairs]).encode())


def write_csv(path: Path, pairs: Pairs) -> Path:
    """Every value in quotes, with a comma and a line end inside, and a column in between."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(
        [("inputs", "n", "targets"), *((s, "7,\n8", t) for s, t in pairs)]
    )
    return write(path, text.getvalue().encode("utf-8-sig"))


def write_jsonl(path: Path, pairs: Pairs) -> Path:
    return write(path, "".join(json.dumps({"n": 1, "inputs": s, "targets": t}) + "\n" for s, t in pairs).encode())


def write_nested_jsonl(path: Path, pairs: Pairs) -> Path:
    return write(path, "".join(json.dumps({"t": {"en": s, "de": t}}) + "\n" for s, t in pairs).encode())


def write_parquet(path: Path, pairs: Pairs) -> Path:
    columns = {"n": list(range(len(pairs))), "inputs": [s for s, _ in pairs], "targets": [t for _, t in pairs]}
    types = [("n", pyarrow.int64()), ("inputs", pyarrow.string()), ("targets", pyarrow.large_string())]
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=pyarrow.schema(types)), path, row_group_size=3)
    return path


def write_nested_parquet(path: Path, pairs: Pairs) -> Path:
    kind = pyarrow.struct([("en", pyarrow.string()), ("de", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))])
    rows = pyarrow.StructArray.from_arrays(
        [
            pyarrow.array([s for s, _ in pairs], pyarrow.string()),
            pyarrow.array([t for _, t in pairs], pyarrow.string()).dictionary_encode(),
        ],
        fields=list(kind),
    )
    pyarrow.parquet.write_table(pyarrow.table({"t": rows}), path)
    return path


FORMATS: list[tuple[str, Any, tuple[str | None, str | None], Sequence[str]]] = [
    ("a.tsv", write_tsv, (None, None), tuple(COMPRESSIONS)),
    ("b.tsv", write_tsv_with_header, ("src", "tgt"), tuple(COMPRESSIONS)),
    ("c.tsv", write_tsv_with_header, ("2", "0"), ("",)),
    ("h.csv", write_csv, (None, None), tuple(COMPRESSIONS)),
    ("d.jsonl", write_jsonl, (None, None), tuple(COMPRESSIONS)),
    ("e.ndjson", write_nested_jsonl, ("t.en", "t.de"), tuple(COMPRESSIONS)),
    ("f.parquet", write_parquet, (None, None), ("",)),
    ("g.parquet", write_nested_parquet, ("t.en", "t.de"), ("",)),
]

characters = st.characters(exclude_categories=["Cs", "Cc"])
sentences = st.text(characters, min_size=1, max_size=12).map(str.strip).filter(bool)
many_pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=8)


def read(path: Path, columns: tuple[str | None, str | None] = (None, None)) -> tuple[Pairs, BadLines]:
    bad_lines = BadLines()
    found = read_pair_file(path, format_of(path), columns, bad_lines)
    return [(pair["inputs"], pair["targets"]) for pair in found], bad_lines


@settings(max_examples=25)
@given(pairs=many_pairs)
def test_every_format_and_compression_gives_back_what_was_written(pairs: Pairs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, writer, columns, compressions in FORMATS:
            for compression in compressions:
                path = writer(Path(folder) / (name + compression), pairs)
                found, bad_lines = read(path, columns)
                if name == "c.tsv":  # read without its header, which then is a pair
                    assert found[0] == ("src", "tgt")
                    found = found[1:]
                assert found == pairs, path.name
                assert bad_lines.count == 0


@settings(max_examples=25)
@given(pairs=many_pairs)
def test_two_text_files_give_back_what_was_written(pairs: Pairs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for compression in COMPRESSIONS:
            paths = [
                write(Path(folder) / f"a.{side}{compression}", "".join(f"{pair[side]}\n" for pair in pairs).encode())
                for side in (0, 1)
            ]
            found = list(read_pairs(paths[0], paths[1], BadLines()))
            assert [(pair["inputs"], pair["targets"]) for pair in found] == pairs


@settings(max_examples=150)
@given(
    content=st.binary(max_size=60),
    suffix=st.sampled_from([".tsv", ".csv", ".jsonl", ".parquet", ".tsv.gz", ".jsonl.zst"]),
)
def test_no_content_ends_in_anything_but_pairs_or_a_known_error(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        try:
            found, _ = read(path)
        except (InputError, CorruptFileError):
            return
        assert all(source.strip() and target.strip() for source, target in found)


def test_bad_tsv_lines_are_skipped_and_counted_with_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b"a\tA\nno tab\n\tB\nc\t \n\xff\tD\ne\tE\n\nf\tF\textra\n")
    found, bad_lines = read(path)
    assert found == [("a", "A"), ("e", "E"), ("f", "F")]
    assert bad_lines.to_json() == [
        {"file": "a.tsv", "reason": "empty", "count": 3, "first_lines": [3, 4, 7]},
        {"file": "a.tsv", "reason": "fewer than 2 columns", "count": 1, "first_lines": [2]},
        {"file": "a.tsv", "reason": "not UTF-8", "count": 1, "first_lines": [5]},
    ]


def test_bad_csv_rows_are_skipped_and_counted_with_their_first_line(tmp_path: Path) -> None:
    content = b'inputs,targets\n"a\nb",A\nalone\n,B\n\n\xff,D\n"e ""quoted"", so",E\nf,F,extra\n'
    found, bad_lines = read(write(tmp_path / "a.csv", content))
    assert found == [("a\nb", "A"), ('e "quoted", so', "E"), ("f", "F")]
    assert bad_lines.to_json() == [
        {"file": "a.csv", "reason": "empty", "count": 2, "first_lines": [5, 6]},
        {"file": "a.csv", "reason": "fewer than 2 columns", "count": 1, "first_lines": [4]},
        {"file": "a.csv", "reason": "not UTF-8", "count": 1, "first_lines": [7]},
    ]


@pytest.mark.parametrize("rows", [0, 500, 50_000])
@pytest.mark.parametrize("broken", ['"b,B', 'b,"B'])
def test_a_quote_that_is_never_closed_is_an_error_with_its_line(tmp_path: Path, broken: str, rows: int) -> None:
    content = f"inputs,targets\na,A\n{broken}\n" + "c,C\n" * rows
    with pytest.raises(InputError, match="from line 3 on") as error:
        read(write(tmp_path / "a.csv", content.encode()))
    assert error.value.line == 3
    assert "quote" in str(error.value.help)


@pytest.mark.parametrize("behind", ['c,"C"\nd,D\n', 'c,C\n"d",D\ne,E\n'])
def test_a_quote_that_another_value_closes_is_an_error_with_its_line(tmp_path: Path, behind: str) -> None:
    content = f'inputs,targets\na,A\nb,"B\n{behind}'
    with pytest.raises(InputError, match="from line 3 on: a quote is opened and never closed"):
        read(write(tmp_path / "a.csv", content.encode()))


def test_a_quote_in_the_middle_of_a_value_is_part_of_it(tmp_path: Path) -> None:
    found, bad_lines = read(write(tmp_path / "a.csv", b'inputs,targets\n5" pipe,A\n"5" pipe,B\n"c\nd",D\n'))
    assert found == [('5" pipe', "A"), ("5 pipe", "B"), ("c\nd", "D")]
    assert not bad_lines.count


@pytest.mark.parametrize("values", [["0", "1"], [0, 1], [False, True]])
def test_labels_may_be_whole_numbers_and_truth_values(tmp_path: Path, values: list[Any]) -> None:
    texts = [str(value).lower() for value in values]
    columns = [Column("text"), Column("label", is_label=True)]
    lines = [json.dumps({"text": "a", "label": value}) for value in values]
    write(tmp_path / "a.jsonl", "\n".join(lines).encode())
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "a"], "label": values}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        path = tmp_path / name
        assert [row.texts[1] for row in read_rows(path, format_of(path), columns, BadLines())] == texts
        if not isinstance(values[0], str):
            with pytest.raises(InputError, match="not text"):
                list(read_rows(path, format_of(path), [Column("text"), Column("label")], BadLines()))


def test_labels_are_no_fractions(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", b'{"text": "a", "label": 0.5}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": [0.5]}), tmp_path / "a.parquet")
    for name, kind in (("a.jsonl", "float"), ("a.parquet", "double")):
        path = tmp_path / name
        with pytest.raises(InputError, match=f"is {kind}, neither text nor whole numbers"):
            list(read_rows(path, format_of(path), [Column("text"), Column("label", is_label=True)], BadLines()))


def test_bad_json_lines_are_skipped_and_counted_with_their_numbers(tmp_path: Path) -> None:
    lines = [
        '{"inputs": "a", "targets": "A"}',
        '{"inputs": "b", "targets": ',
        "[1, 2]",
        '{"inputs": "c"}',
        '{"inputs": "d", "targets": null}',
        '{"inputs": "", "targets": "E"}',
        '{"inputs": "\\ud800", "targets": "F"}',
        "[" * 100_000,
        '{"inputs": "g", "targets": "G"}',
    ]
    found, bad_lines = read(write(tmp_path / "a.jsonl", "\n".join(lines).encode()))
    assert found == [("a", "A"), ("g", "G")]
    assert {(entry["reason"], tuple(entry["first_lines"])) for entry in bad_lines.to_json()} == {
        ("not valid JSON", (2, 8)),
        ("not a JSON object", (3,)),
        ("a column without text", (4, 5)),
        ("empty", (6,)),
        ("not UTF-8", (7,)),
    }


def test_bad_parquet_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    broken = pyarrow.array([b"a", b"\xff", b"c", None, b"e"]).view(pyarrow.string())
    table = pyarrow.table({"inputs": broken, "targets": ["A", "B", "", "D", "E"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found, bad_lines = read(tmp_path / "a.parquet")
    assert found == [("a", "A"), ("e", "E")]
    assert {(entry["reason"], tuple(entry["first_lines"])) for entry in bad_lines.to_json()} == {
        ("not UTF-8", (2,)),
        ("empty", (3, 4)),
    }


@pytest.mark.parametrize(
    ("name", "writer"), [("a.tsv", write_tsv_with_header), ("a.jsonl", write_jsonl), ("a.parquet", write_parquet)]
)
def test_a_missing_column_is_an_error_with_the_valid_ones(tmp_path: Path, name: str, writer: Any) -> None:
    path = writer(tmp_path / name, [("a", "A")])
    known = "tgt" if name == "a.tsv" else "targets"
    with pytest.raises(InputError, match=rf"no column 'x{known}'; valid columns: .*{known}") as error:
        read(path, (known, f"x{known}"))
    assert error.value.help == f"did you mean '{known}'?"


@pytest.mark.parametrize(("name", "writer"), [("a.jsonl", write_jsonl), ("a.parquet", write_parquet)])
def test_a_column_that_is_not_text_is_an_error(tmp_path: Path, name: str, writer: Any) -> None:
    with pytest.raises(InputError, match=r"column 'n' of .* is int(64)?, not text"):
        read(writer(tmp_path / name, [("a", "A")]), ("inputs", "n"))


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 columns separated by tabs"):
        read(write(tmp_path / "a.tsv", b"a,A\nb,B\n"))
    with pytest.raises(InputError, match="has 8 columns separated by tabs"):
        read(write(tmp_path / "a.tsv", b"a\tA\nb\tB\n"), ("0", "7"))
    with pytest.raises(InputError, match="is a JSON object"):
        read(write(tmp_path / "a.json", b'[\n{"inputs": "a", "targets": "A"},\n]\n'))
    with pytest.raises(CorruptFileError, match=r"a\.parquet is damaged"):
        read(write(tmp_path / "a.parquet", b"a\tA\n"))
    with pytest.raises(InputError, match=r"cannot tell the format of .*xlsx"):
        format_of(tmp_path / "a.xlsx.gz")


@pytest.mark.parametrize("suffix", [".tsv.gz", ".tsv.zst", ".parquet"])
def test_a_file_cut_off_is_an_error(tmp_path: Path, suffix: str) -> None:
    pairs = [(f"word {i * i}", f"Wort {i * 7}") for i in range(3000)]
    path = (write_parquet if suffix == ".parquet" else write_tsv)(tmp_path / f"a{suffix}", pairs)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match=r"is damaged"):
        read(path)


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.parquet"])
def test_a_missing_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no file"):
        read(tmp_path / name)
