"""The Parquet files of a corpus: what they hold, and their rows."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Self

import pyarrow
import pyarrow.parquet

from t2tdeploy.errors import CorruptFileError, InputError, nearest
from t2tdeploy.files import reading

_FOOTER_TAIL = 8
"""Bytes at the end of a Parquet file: the footer's length (4, little-endian) and `PAR1`."""

_BATCH_ROWS = 1024
"""Rows that are decoded at once."""

_BUFFER_BYTES = 1 << 18
"""Of a column's bytes that are fetched at once."""


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


def find_files(path: Path, output: Path | None = None) -> list[Path]:
    """The Parquet file at `path`, or those of a folder, see `data_files`.

    Args:
        output: a folder that may lie in that at `path` and is none of its data.

    Raises:
        InputError: there is none, or a folder in the folder has some too.
    """
    if not path.is_dir():
        with reading(path):
            path.stat()
        return [path]
    files = data_files(path)
    for file in files:
        if file.parent != path and not (output and file.resolve().is_relative_to(output.resolve())):
            raise InputError(
                f"{path} holds .parquet files in folders of its own: {file.relative_to(path)}",
                path=path,
                help="translate one folder at a time, each with an --output of its own, or put all files into one",
            )
    found = [file for file in files if file.parent == path]
    if not found:
        raise InputError(f"{path} holds no .parquet file", path=path)
    return found


def data_files(folder: Path) -> list[Path]:
    """The files below a folder whose suffix is .parquet, in capitals or not, by name. Names of files and folders that
    start with `_` or `.` are not data to readers of Parquet."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() == ".parquet"
        and not any(name.startswith((".", "_")) for name in file.relative_to(folder).parts)
        and not file.is_dir()
    )


def open_files(paths: Sequence[Path], column: str, added: Sequence[str]) -> list[SourceFile]:
    """Looks at every file's footer.

    Args:
        column: that is translated.
        added: columns that the output has beside those of the input.

    Raises:
        InputError: a file lacks `column` or has it twice, it is not text, or a column of `added` exists; the files'
            columns differ.
        CorruptFileError: not a Parquet file.
    """
    found: list[SourceFile] = []
    schema: pyarrow.Schema | None = None
    for path in paths:
        with _faults(path), pyarrow.parquet.ParquetFile(path) as file:
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


class RowReader:
    """Reads rows of Parquet files, one span after another. It holds a span and a batch, not a row group, of which many
    writers make one of a million rows.

    A span that begins behind the last one goes on where that ended: of blocks in their order, also if some are left
    out, a file is read and decoded once. A span before the last one begins anew at its row group.

    Args:
        columns: that are read; None: all.
    """

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self._columns = columns
        self._path: Path | None = None
        self._file: pyarrow.parquet.ParquetFile | None = None
        self._group_starts: list[int] = []
        self._batches: Iterator[_Batch] = iter(())
        self._batch: _Batch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file; the next span opens one again."""
        if self._file is not None:
            self._file.close()
        self._path = self._file = self._batch = None
        self._batches = iter(())

    def column_names(self, path: Path) -> list[str]:
        """All columns of a file.

        Raises:
            InputError: it is not there any more.
            CorruptFileError: it is damaged.
        """
        with self._opened(path) as file:
            names: list[str] = file.schema_arrow.names
            return names

    def read(self, path: Path, start: int, stop: int) -> pyarrow.Table:
        """Rows `start` to `stop` of a file.

        Raises:
            InputError: it is not there any more.
            CorruptFileError: it is damaged, or has fewer rows.
        """
        with self._opened(path) as file:
            schema = file.schema_arrow
            if self._columns is not None:
                schema = pyarrow.schema([schema.field(name) for name in self._columns], schema.metadata)
            batches = [batch.between(start, stop) for batch in self._overlapping(path, start, stop)]
            # In one chunk: what a writer makes of rows is then the same bytes wherever their reading began.
            return pyarrow.Table.from_batches(batches, schema).combine_chunks()

    @contextmanager
    def _opened(self, path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
        try:
            with _faults(path):
                if self._file is None or path != self._path:
                    self.close()
                    # By default the columns of a whole row group are fetched before its first row is decoded.
                    self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
                    self._path, metadata = path, self._file.metadata
                    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
                    self._group_starts = list(accumulate(sizes, initial=0))[:-1]
                yield self._file
        except BaseException:
            self.close()  # a reading that broke off cannot be gone on with
            raise

    def _overlapping(self, path: Path, start: int, stop: int) -> Iterator[_Batch]:
        """The batches that hold rows `start` to `stop`."""
        group, last = bisect_right(self._group_starts, start) - 1, self._batch
        if last is not None and last.start <= start and self._group_starts[group] <= last.stop:
            batches: Iterator[_Batch] = chain([last], self._batches)
        else:
            batches = self._batches = _decoded(self._file, self._group_starts, group, self._columns)
        for batch in batches:
            self._batch = batch
            if batch.stop > start:
                yield batch
            if batch.stop >= stop:
                return
        raise CorruptFileError(path, f"it has fewer than {stop} rows", help="was it replaced while it was translated?")


@dataclass(frozen=True)
class _Batch:
    """Rows that were decoded together; the first is row `start` of the file."""

    start: int
    rows: pyarrow.RecordBatch

    @property
    def stop(self) -> int:
        return self.start + int(self.rows.num_rows)

    def between(self, start: int, stop: int) -> pyarrow.RecordBatch:
        first, end = max(start, self.start), min(stop, self.stop)
        return self.rows.slice(first - self.start, end - first)


def _decoded(
    file: pyarrow.parquet.ParquetFile, group_starts: Sequence[int], first: int, columns: Sequence[str] | None
) -> Iterator[_Batch]:
    """From the beginning of the row group `first` to the end of the file."""
    for group in range(first, len(group_starts)):
        row = group_starts[group]
        for rows in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
            # a name with a dot in it was also taken for that of another column's field
            yield _Batch(row, rows if columns is None else rows.select(columns))
            row += rows.num_rows


def texts_of(column: pyarrow.ChunkedArray) -> list[bytes | None]:
    """A column of text as bytes, because Parquet writers do not all check that their strings are UTF-8."""
    values: list[bytes | None] = column.cast(pyarrow.large_string()).cast(pyarrow.large_binary()).to_pylist()
    return values


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        with reading(path):
            yield
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
    if (count := schema.names.count(column)) > 1:
        raise InputError(f"{path} has {count} columns called '{column}'", path=path, help="give each a name of its own")
    kind = schema.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    types = pyarrow.types
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
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
