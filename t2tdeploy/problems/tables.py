"""A table out of a file: comma- or tab-separated values, or Parquet.

The values of a text file stay texts, so that a category written 007 is not taken for 7; `rows.as_numbers` tells
whether a column holds nothing but numbers. A row with too few or too many values is left out and added to a `BadLines`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from t2tdeploy.columns.values import Array
from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.files import reading
from t2tdeploy.problems.quoted import read_quoted
from t2tdeploy.problems.rows import Rows, float64
from t2tdeploy.problems.separators import SEPARATORS, other_separator, separator_name
from t2tdeploy.problems.text import BadLines, format_by_suffix

MOST_BYTES = 2**26  # of a row of a text file

TableFormat = Literal["csv", "tsv", "parquet"]

_SUFFIXES: dict[str, TableFormat] = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet"}


def table_format(path: Path) -> TableFormat:
    """The format that a file name shows, behind `.gz` or `.zst`.

    Raises:
        InputError: the suffix is not known.
    """
    return format_by_suffix(path, _SUFFIXES, help="say format=csv, tsv or parquet")


def read_table(
    path: Path, file_format: TableFormat, bad_lines: BadLines, *, separator: str | None = None, header: bool = True
) -> tuple[Rows, dict[str, str]]:
    """The rows of a file, numbered from 1 without the header, and the columns left out with their type.

    A column of Parquet that holds neither numbers nor text is left out.

    Args:
        separator: of a text file; None: a comma or a tab, by the format.
        header: whether the first line of a text file names the columns; otherwise they are called 0, 1, 2, …

    Raises:
        InputError: the file has no columns or no rows, or one name twice; a quote in it is never closed; a row is
            longer than `MOST_BYTES`, or none as long as the first.
        CorruptFileError: it is damaged, or not what its format says.
    """
    with _faults(path):
        if file_format == "parquet":
            table, numbers = pyarrow.parquet.read_table(path), None
        else:
            table, numbers = _read_text(path, separator or SEPARATORS[file_format], header, bad_lines)
        _require_columns(path, table, separator or SEPARATORS.get(file_format))
        columns = {name: _column(table.column(place)) for place, name in enumerate(table.column_names)}
    unusable = {name: str(table.schema.field(name).type) for name, values in columns.items() if values is None}
    return Rows({name: values for name, values in columns.items() if values is not None}, path.name, numbers), unusable


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        with reading(path):
            yield
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        help = "save the file as UTF-8" if "UTF8" in reason else "is it of the format that its name or format=… says?"
        raise CorruptFileError(path, reason, help=help) from error
    except UnicodeDecodeError as error:  # of the names of columns
        raise CorruptFileError(path, "it is not UTF-8", help="save the file as UTF-8") from error
    except OSError as error:  # of the decompressor
        raise CorruptFileError(path, str(error), help="fetch the file again") from error


def _read_text(path: Path, separator: str, header: bool, bad_lines: BadLines) -> tuple[pyarrow.Table, Array]:
    """All columns as text, and the number of every row that is kept."""
    skipped: list[int] = []
    has_line_ends = False
    blank = _blank_lines_before(path)
    first = blank + (2 if header else 1)

    def leave_out(row: Any) -> str:
        nonlocal has_line_ends
        skipped.append(row.number - first + 1)
        has_line_ends |= any(end in row.text.strip() for end in "\r\n")
        bad_lines.add(path, skipped[-1], f"{row.actual_columns} values instead of {row.expected_columns}")
        return "skip"

    parsing = pyarrow.csv.ParseOptions(
        delimiter=separator, newlines_in_values=True, invalid_row_handler=leave_out, ignore_empty_lines=True
    )
    names = _names(path, separator, header)
    with _whole_rows(path, separator), _decompressed(path) as source:
        table = pyarrow.csv.read_csv(
            source,
            pyarrow.csv.ReadOptions(
                use_threads=False,  # a row's number is only known to one thread
                block_size=MOST_BYTES,
                column_names=[str(place) for place in range(len(names))],  # a name may stand there twice
                skip_rows=blank,
                skip_rows_after_names=1 if header else 0,  # a row, which may be several lines
            ),
            parsing,
            pyarrow.csv.ConvertOptions(
                column_types={str(place): pyarrow.string() for place in range(len(names))}, strings_can_be_null=False
            ),
        )
    numbers = np.setdiff1d(np.arange(1, len(table) + len(skipped) + 1), skipped)
    if has_line_ends or _has_line_ends(table):
        for _ in read_quoted(path, separator):  # which sees quotes that go astray
            pass
    if skipped and not len(table):
        raise InputError(
            f"none of the {len(skipped)} rows of {path} has {len(names)} values, as its first line has",
            path=path,
            help=f"does the first line name all columns, and are they separated by {separator_name(separator)}?",
        )
    return table.rename_columns(names), numbers


@contextmanager
def _whole_rows(path: Path, separator: str) -> Iterator[None]:
    """Says what a row is that does not fit into a block."""
    try:
        yield
    except pyarrow.ArrowInvalid as error:
        if "straddl" not in str(error):
            raise
        for _ in read_quoted(path, separator):  # a row without an end, as a rule: an open quote
            pass
        raise InputError(
            f"{path} has a row of more than {MOST_BYTES} bytes", path=path, help="save the table as Parquet"
        ) from error


def _has_line_ends(table: pyarrow.Table) -> bool:
    return any(
        pyarrow.compute.any(pyarrow.compute.match_substring_regex(one, "[\r\n]")).as_py() for one in table.columns
    )


def _blank_lines_before(path: Path) -> int:
    with _decompressed(path) as source:
        content = bytearray()
        while not content.strip() and (block := source.read(1 << 16)):
            content += block
    return content[: len(content) - len(content.lstrip(b"\r\n"))].count(b"\n")


def _names(path: Path, separator: str, header: bool) -> list[str]:
    with _decompressed(path) as source:
        reader = pyarrow.csv.open_csv(
            source,
            pyarrow.csv.ReadOptions(use_threads=False, block_size=MOST_BYTES, autogenerate_column_names=not header),
            pyarrow.csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=lambda row: "skip"
            ),
        )
        names = reader.schema.names
    if not header:
        return [str(place) for place in range(len(names))]
    # pandas writes the numbers of the rows into a first column without a name
    return [name.strip() or f"column_{place}" for place, name in enumerate(names, start=1)]


@contextmanager
def _decompressed(path: Path) -> Iterator[Any]:
    kind = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pyarrow.input_stream(str(path), compression=kind) as stream:
        yield stream


def _require_columns(path: Path, table: pyarrow.Table, separator: str | None) -> None:
    names = table.column_names
    if not len(table):
        raise InputError(f"{path} has no rows", path=path, help="a table has a line of names and a line for each row")
    if len(names) == 1 and separator is not None and (help := other_separator(names[0], separator)):
        raise InputError(f"{path} has one column, '{names[0][:80]}'", path=path, help=help)
    double = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if double is not None:
        raise InputError(f"{path} has two columns called '{double}'", path=path, help="give each a name of its own")


def _beyond_float64(column: pyarrow.ChunkedArray) -> bool:
    """Whether there are whole numbers that floats do not tell apart, as ids may be."""
    ends = pyarrow.compute.min_max(column).as_py()
    return any(end is not None and abs(end) > 2**53 for end in ends.values())


def _column(column: pyarrow.ChunkedArray) -> Array | None:
    """float64 with NaN, or object of str with "" where a value is missing; None: it is neither."""
    types, kind = pyarrow.types, column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_integer(kind) and _beyond_float64(column):
        column, kind = column.cast(pyarrow.string()), pyarrow.string()
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return float64(column)
    if types.is_boolean(kind) or types.is_null(kind):
        column, kind = column.cast(pyarrow.string()), pyarrow.string()
    if not (types.is_string(kind) or types.is_large_string(kind)):
        return None
    texts = pyarrow.compute.fill_null(pyarrow.compute.utf8_trim_whitespace(column), "")
    found: Array = texts.to_numpy(zero_copy_only=False).astype(object)
    return found
