"""The Parquet files of a corpus: what they hold, and their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from t2tdeploy.errors import CorruptFileError, InputError, nearest
from t2tdeploy.files import reading

_FOOTER_TAIL = 8
"""Bytes at the end of a Parquet file: the footer's length (4, little-endian) and `PAR1`."""


@dataclass(frozen=True)
class SourceFile:
    """One Parquet file of a corpus.

    Args:
        fingerprint: of its size and footer, which holds the schema and the place, size and statistics of every column
            chunk. Reading all of a large corpus only to know it again would take longer than it is worth.
    """

    path: Path
    rows: int
    fingerprint: str


def find_files(path: Path) -> list[Path]:
    """The Parquet file at `path`, or those of a folder, by name; names that start with `_` or `.` are not data.

    Raises:
        InputError: there is none.
    """
    if path.is_dir():
        found = sorted(file for file in path.glob("*.parquet") if not file.name.startswith((".", "_")))
        if not found:
            raise InputError(f"{path} holds no .parquet file", path=path)
        return found
    with reading(path):
        path.stat()
    return [path]


def open_files(paths: Sequence[Path], column: str, added: Sequence[str]) -> list[SourceFile]:
    """Looks at every file's footer.

    Args:
        column: that is translated.
        added: columns that the output has beside those of the input.

    Raises:
        InputError: a file lacks `column`, it is not text, or a column of `added` exists; the files' columns differ.
        CorruptFileError: not a Parquet file.
    """
    found: list[SourceFile] = []
    schema: pyarrow.Schema | None = None
    for path in paths:
        with _opened(path) as file:
            _require_columns(path, file.schema_arrow, column, added)
            if schema is not None and not file.schema_arrow.equals(schema):
                raise InputError(
                    f"{path} has other columns than {paths[0]}: {_difference(schema, file.schema_arrow)}",
                    path=path,
                    help="translate files of different columns one at a time, each with an --output of its own",
                )
            schema = file.schema_arrow
            found.append(SourceFile(path, file.metadata.num_rows, _fingerprint(path)))
    return found


def read_rows(path: Path, start: int, stop: int) -> pyarrow.Table:
    """Rows `start` to `stop` of a file, all columns; only the row groups that hold them are read.

    Raises:
        CorruptFileError: the file is damaged.
    """
    with _opened(path) as file:
        first, groups, before = None, [], 0
        for group in range(file.metadata.num_row_groups):
            after = before + file.metadata.row_group(group).num_rows
            if after > start and before < stop:
                groups.append(group)
                first = before if first is None else first
            before = after
        if first is None:
            return file.schema_arrow.empty_table()
        return file.read_row_groups(groups).slice(start - first, stop - start)


def texts_of(column: pyarrow.ChunkedArray) -> list[bytes | None]:
    """A column of text as bytes, because Parquet writers do not all check that their strings are UTF-8."""
    values: list[bytes | None] = column.cast(pyarrow.large_string()).cast(pyarrow.large_binary()).to_pylist()
    return values


@contextmanager
def _opened(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with reading(path), pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptFileError(path, str(error).splitlines()[0], help="is it a Parquet file?") from error


def _fingerprint(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(size - _FOOTER_TAIL)
        footer = int.from_bytes(file.read(4), "little")
        file.seek(size - _FOOTER_TAIL - footer)
        return hashlib.sha256(size.to_bytes(8, "little") + file.read(footer)).hexdigest()[:16]


def _require_columns(path: Path, schema: pyarrow.Schema, column: str, added: Sequence[str]) -> None:
    if column not in schema.names:
        close = nearest(column, schema.names)
        raise InputError(
            f"{path} has no column '{column}'; valid columns: {', '.join(schema.names) or 'none'}",
            path=path,
            help=f"did you mean '{close}'?" if close else "name the column of sentences with --column",
        )
    kind = schema.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise InputError(f"column '{column}' of {path} is {kind}, not text", path=path, help="choose another --column")
    for name in added:
        if name in schema.names:
            raise InputError(
                f"{path} has a column '{name}' already",
                path=path,
                help="give the new columns other names: --translation-column, --score-column",
            )


def _difference(first: pyarrow.Schema, other: pyarrow.Schema) -> str:
    one, two = ({field.name: str(field.type) for field in schema} for schema in (first, other))
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    return "; ".join(f"{name} is {two.get(name, 'missing')}, not {one.get(name, 'there')}" for name in names) or (
        "their order" if first.names != other.names else "nullability"
    )
