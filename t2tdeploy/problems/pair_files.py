"""Sentence pairs out of one file: tab-separated values, JSON lines or Parquet.

A line that cannot be used is skipped and added to a `BadLines` with its number (from 1; rows, for Parquet). What is
wrong with the file as a whole, such as a column that does not exist, is an error that names the valid choices.
Two parallel text files are read by `text.read_pairs`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from t2tdeploy.errors import CorruptFileError, InputError, nearest
from t2tdeploy.problems.text import COMPRESSIONS, BadLines, read_lines

PairFormat = Literal["tsv", "jsonl", "parquet"]
Pair = dict[str, str]

_SUFFIXES: dict[str, PairFormat] = {
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


def format_of(path: Path) -> PairFormat:
    """The format that a file name shows, behind `.gz` or `.zst`.

    Raises:
        InputError: the suffix is not known.
    """
    suffix = (path.with_suffix("") if path.suffix in COMPRESSIONS else path).suffix
    if suffix not in _SUFFIXES:
        raise InputError(
            f"cannot tell the format of {path} from its name; known suffixes: {', '.join(_SUFFIXES)}",
            path=path,
            help="say format=tsv, jsonl or parquet; two parallel text files are given as [source,target]",
        )
    return _SUFFIXES[suffix]


def read_pair_file(
    path: Path, file_format: PairFormat, columns: tuple[str | None, str | None], bad_lines: BadLines
) -> Iterator[Pair]:
    """The pairs of a file as {"inputs", "targets"}, surrounding white space removed.

    Args:
        columns: where the two sides stand: a name, `outer.inner` for a name within a JSON object or Parquet struct,
            or for TSV a number from 0, which also says that the file has no header. None: columns 0 and 1 of TSV,
            `inputs` and `targets` elsewhere.

    Raises:
        InputError: the file does not exist, or a column does not or is not text.
        CorruptFileError: the file is damaged or cut off.
    """
    defaults = ("0", "1") if file_format == "tsv" else ("inputs", "targets")
    inputs, targets = (column or default for column, default in zip(columns, defaults, strict=True))
    readers: dict[PairFormat, Callable[[Path, tuple[str, str], BadLines], Iterator[Pair]]] = {
        "tsv": _read_tsv,
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
    }
    return readers[file_format](path, (inputs, targets), bad_lines)


def _read_tsv(path: Path, columns: tuple[str, str], bad_lines: BadLines) -> Iterator[Pair]:
    """No quoting: a tab always separates, so a sentence cannot hold one."""
    lines = enumerate(read_lines(path), start=1)
    if all(column.isdecimal() for column in columns):
        places = (int(columns[0]), int(columns[1]))
    else:
        _, header = next(lines, (1, b""))
        names = header.decode("utf-8", errors="replace").split("\t")
        for column in columns:
            _require_column(path, column, names)
        places = (names.index(columns[0]), names.index(columns[1]))
    lines_with_text, usable = 0, False
    for number, line in lines:
        if not line.strip():
            bad_lines.add(path, number, "empty")
            continue
        lines_with_text += 1
        fields = line.split(b"\t")
        if len(fields) <= max(places):
            bad_lines.add(path, number, f"fewer than {max(places) + 1} columns")
            continue
        usable = True
        yield from _pair(path, number, fields[places[0]], fields[places[1]], bad_lines)
    if lines_with_text and not usable:
        raise InputError(
            f"no line of {path} has {max(places) + 1} columns separated by tabs",
            path=path,
            help="check the separator, and inputs_column and targets_column, which count from 0",
        )


def _read_jsonl(path: Path, columns: tuple[str, str], bad_lines: BadLines) -> Iterator[Pair]:
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
                _require_column(path, column, record)
                if not isinstance(record[column], str | None):
                    raise _not_text(path, column, type(record[column]).__name__)
        texts = [text for text in map(record.get, columns) if isinstance(text, str)]
        if len(texts) < 2:
            bad_lines.add(path, number, "a column without text")
            continue
        source, target = (text.encode("utf-8", errors="surrogatepass") for text in texts)  # lone surrogates: not UTF-8
        yield from _pair(path, number, source, target, bad_lines)
    if lines and first:
        raise InputError(
            f"no line of {path} is a JSON object",
            path=path,
            help="JSON lines have one object per line; an array over the whole file must be split up",
        )


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


def _read_parquet(path: Path, columns: tuple[str, str], bad_lines: BadLines) -> Iterator[Pair]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            fields = {field.name: field.type for field in _flat_schema(file.schema_arrow)}
            for column in columns:
                _require_column(path, column, fields)
                if not _is_text(fields[column]):
                    raise _not_text(path, column, str(fields[column]))
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
                table = _flat_table(pyarrow.Table.from_batches([batch]))
                sides = (_bytes_of(table.column(column)) for column in columns)
                for source, target in zip(*sides, strict=True):
                    number += 1
                    yield from _pair(path, number, source, target, bad_lines)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", path=path) from None
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptFileError(path, str(error).splitlines()[0], help="is it a Parquet file?") from error


def _pair(path: Path, number: int, source: bytes | None, target: bytes | None, bad_lines: BadLines) -> Iterable[Pair]:
    """The pair, or nothing after noting why not."""
    try:
        texts = [(side or b"").decode("utf-8").strip() for side in (source, target)]
    except UnicodeDecodeError:
        bad_lines.add(path, number, "not UTF-8")
        return ()
    if not all(texts):
        bad_lines.add(path, number, "empty")
        return ()
    return ({"inputs": texts[0], "targets": texts[1]},)


def _require_column(path: Path, column: str, names: Iterable[str]) -> None:
    names = list(names)
    if column not in names:
        close = nearest(column, names)
        raise InputError(
            f"{path} has no column '{column}'; valid columns: {', '.join(names) or 'none'}",
            path=path,
            help=f"did you mean '{close}'?" if close else "set inputs_column and targets_column",
        )


def _not_text(path: Path, column: str, kind: str) -> InputError:
    return InputError(
        f"column '{column}' of {path} is {kind}, not text",
        path=path,
        help="set inputs_column and targets_column to columns of text",
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


def _is_text(kind: pyarrow.DataType) -> bool:
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _bytes_of(column: pyarrow.ChunkedArray) -> list[bytes | None]:
    """As bytes, because Parquet writers do not all check that their strings are UTF-8."""
    values: list[bytes | None] = column.cast(pyarrow.large_string()).cast(pyarrow.large_binary()).to_pylist()
    return values
