"""Rows of text out of one file: separated values, JSON lines or Parquet.

A line that cannot be used is skipped and added to a `BadLines` with its number (from 1; rows, for Parquet). What is
wrong with the file as a whole, such as a column that does not exist, is an error that names the valid choices.
Two parallel text files are read by `text.read_pairs`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from t2tdeploy.errors import CorruptFileError, InputError, nearest
from t2tdeploy.files import reading
from t2tdeploy.problems.quoted import read_quoted
from t2tdeploy.problems.separators import SEPARATORS, other_separator, separator_name
from t2tdeploy.problems.text import BadLines, format_by_suffix, read_lines

RowFormat = Literal["tsv", "csv", "jsonl", "parquet"]
Raw = tuple[int, Sequence[bytes | None]]  # number of a line, and its values

_SUFFIXES: dict[str, RowFormat] = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class Column:
    """Which column of a file is read.

    Args:
        name: its name, `outer.inner` for a name within a JSON object or Parquet struct, or for TSV and CSV a number
            from 0, which also says that the file has no header.
        is_label: whole numbers and truth values will do as well as text.
    """

    name: str
    is_label: bool = False


@dataclass(frozen=True)
class Row:
    """The texts of one line, surrounding white space removed, none of them empty.

    Args:
        number: of the line, from 1.
    """

    number: int
    texts: tuple[str, ...]


def format_of(path: Path) -> RowFormat:
    """The format that a file name shows, behind `.gz` or `.zst`.

    Raises:
        InputError: the suffix is not known.
    """
    return format_by_suffix(
        path,
        _SUFFIXES,
        help="say format=tsv, csv, jsonl or parquet; two parallel text files are given as [source,target]",
    )


def read_rows(
    path: Path,
    file_format: RowFormat,
    columns: Sequence[Column],
    bad_lines: BadLines,
    *,
    separator: str | None = None,
) -> Iterator[Row]:
    """The rows of a file.

    Args:
        separator: of the values of CSV or TSV; None: a comma or a tab, by the format.

    Raises:
        InputError: the file does not exist, a column does not or is not text, or the format has no separator.
        CorruptFileError: the file is damaged or cut off.
    """
    found: Iterator[Raw]
    if file_format in SEPARATORS:
        found = _read_separated(path, file_format, separator or SEPARATORS[file_format], columns, bad_lines)
    elif separator is not None:
        raise InputError(
            f"{path} is read as {file_format}, which has no separator, but separator = '{separator}'",
            path=path,
            help="leave separator out, or say format=csv or tsv",
        )
    else:
        found = (_read_jsonl if file_format == "jsonl" else _read_parquet)(path, columns, bad_lines)
    for number, values in found:
        try:
            texts = tuple((value or b"").decode("utf-8").strip() for value in values)
        except UnicodeDecodeError:
            bad_lines.add(path, number, "not UTF-8")
            continue
        if all(texts):
            yield Row(number, texts)
        else:
            bad_lines.add(path, number, "empty")


def _tsv_lines(path: Path, separator: str) -> Iterator[tuple[int, list[bytes]]]:
    """No quoting: the separator always separates, so a text cannot hold one."""
    mark = separator.encode()
    return ((number, line.split(mark)) for number, line in enumerate(read_lines(path), start=1))


def _csv_lines(path: Path, separator: str) -> Iterator[tuple[int, list[bytes]]]:
    """Python's `csv`: a value in double quotes may hold separators, line ends and, doubled, quotes."""
    rows = read_quoted(path, separator)
    return ((line, [value.encode("utf-8", "surrogateescape") for value in row]) for line, row in rows)


def _read_separated(
    path: Path, file_format: RowFormat, separator: str, columns: Sequence[Column], bad_lines: BadLines
) -> Iterator[Raw]:
    lines = (_tsv_lines if file_format == "tsv" else _csv_lines)(path, separator)
    names = [column.name for column in columns]
    if all(name.isdecimal() for name in names):
        places = [int(name) for name in names]
    else:
        places = _places_in_header(path, next(lines, (1, []))[1], names, separator)
    lines_with_text, usable, example = 0, False, b""
    for number, fields in lines:
        if not any(field.strip() for field in fields):
            bad_lines.add(path, number, "empty")
            continue
        lines_with_text += 1
        example = example or separator.encode().join(fields)
        if len(fields) <= max(places):
            bad_lines.add(path, number, f"fewer than {max(places) + 1} columns")
            continue
        usable = True
        yield number, [fields[place] for place in places]
    if lines_with_text and not usable:
        hint = other_separator(example.decode("utf-8", "replace"), separator)
        raise InputError(
            f"no line of {path} has {max(places) + 1} columns separated by {separator_name(separator)}",
            path=path,
            help=hint or "check the separator, and inputs_column and targets_column, which count from 0",
        )


def _places_in_header(path: Path, fields: Sequence[bytes], names: Sequence[str], separator: str) -> list[int]:
    """Of the columns `names`.

    Raises:
        InputError: the header lacks one, or is one column that another separator would part.
    """
    header = [field.decode("utf-8", "replace") for field in fields]
    hint = other_separator(header[0], separator) if len(header) == 1 else None
    if hint and any(name not in header for name in names):
        raise InputError(f"{path} has one column, '{header[0][:80]}'", path=path, help=hint)
    for name in names:
        _require_column(path, name, header)
    return [header.index(name) for name in names]


def _read_jsonl(path: Path, columns: Sequence[Column], bad_lines: BadLines) -> Iterator[Raw]:
    """The first object decides whether the columns exist; a later one without them is a bad line."""
    lines, first = 0, True
    for number, line in enumerate(read_lines(path), start=1):
        lines += 1
        record = _json_object(line)
        if isinstance(record, str):
            bad_lines.add(path, number, record)
            continue
        if first:
            first = False
            for column in columns:
                _require_column(path, column.name, record)
                value = record[column.name]
                if value is not None and _json_text(value, column) is None:
                    raise _not_text(path, column, type(value).__name__)
        texts = [_json_text(record.get(column.name), column) for column in columns]
        if None in texts:
            bad_lines.add(path, number, "a column without text")
            continue
        # Lone surrogates become what is no UTF-8.
        yield number, [text.encode("utf-8", errors="surrogatepass") for text in texts if text is not None]
    if lines and first:
        raise InputError(
            f"no line of {path} is a JSON object",
            path=path,
            help="JSON lines have one object per line; an array over the whole file must be split up",
        )


def _json_text(value: Any, column: Column) -> str | None:
    """The value as text; None if it is nothing that the column may hold."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if column.is_label and isinstance(value, int) else None


def _json_object(line: bytes) -> dict[str, Any] | str:
    """The object of a line, flat, or what is wrong with the line."""
    if not line.strip():
        return "empty"
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "not valid JSON"
    return _flatten(record) if isinstance(record, dict) else "not a JSON object"


def _read_parquet(path: Path, columns: Sequence[Column], bad_lines: BadLines) -> Iterator[Raw]:
    del bad_lines  # a Parquet file is whole or damaged
    try:
        with reading(path), pyarrow.parquet.ParquetFile(path) as file:
            fields = {field.name: field.type for field in _flat_schema(file.schema_arrow)}
            for column in columns:
                _require_column(path, column.name, fields)
                if not _may_be(fields[column.name], column):
                    raise _not_text(path, column, str(fields[column.name]))
            number = 0
            names = [column.name for column in columns]
            for batch in file.iter_batches(columns=list(dict.fromkeys(names))):
                table = _flat_table(pyarrow.Table.from_batches([batch]))
                for values in zip(*(_bytes_of(table.column(name)) for name in names), strict=True):
                    number += 1
                    yield number, values
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptFileError(path, str(error).splitlines()[0], help="is it a Parquet file?") from error


def _require_column(path: Path, column: str, names: Iterable[str]) -> None:
    names = list(names)
    if column not in names:
        close = nearest(column, names)
        raise InputError(
            f"{path} has no column '{column}'; valid columns: {', '.join(names) or 'none'}",
            path=path,
            help=f"did you mean '{close}'?" if close else "set inputs_column and targets_column",
        )


def _not_text(path: Path, column: Column, kind: str) -> InputError:
    what = "neither text nor whole numbers" if column.is_label else "not text"
    return InputError(
        f"column '{column.name}' of {path} is {kind}, {what}",
        path=path,
        help="set inputs_column and targets_column to the columns that are meant",
    )


def _flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"translation": {"en": "a"}}` as `{"translation.en": "a"}`."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _flat_schema(schema: pyarrow.Schema) -> pyarrow.Schema:
    return _flat_table(schema.empty_table()).schema


def _flat_table(table: pyarrow.Table) -> pyarrow.Table:
    while any(pyarrow.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _may_be(kind: pyarrow.DataType, column: Column) -> bool:
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    text = types.is_string(kind) or types.is_large_string(kind)
    return bool(text or (column.is_label and (types.is_integer(kind) or types.is_boolean(kind))))


def _bytes_of(column: pyarrow.ChunkedArray) -> list[bytes | None]:
    """As bytes, because Parquet writers do not all check that their strings are UTF-8."""
    values: list[bytes | None] = column.cast(pyarrow.large_string()).cast(pyarrow.large_binary()).to_pylist()
    return values
