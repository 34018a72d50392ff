"""The shards of a split on disk: Parquet for exchange, one memory-mapped Arrow file for training.

Parquet, compressed and readable by any tool, is what `datagen` writes. Training needs random access, so a split is
transcribed once into an uncompressed Arrow IPC file under DATA_DIR/.arrow/, whose memory map lets a corpus larger than
memory train. Plain pyarrow does this; Hugging Face `datasets` would add some twenty packages for the same map.

Sharding is round robin: example i is row i // n of shard i mod n.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.features import FeatureSpec
from t2tdeploy.files import atomic_file
from t2tdeploy.problems.codecs import codecs_of

_ROWS_PER_GROUP = 8192
_ROWS_PER_MAP_BATCH = 65536
_BYTES_AT_ONCE = 1 << 26  # of rows of images or long vectors: fewer of them than of others
_METADATA_PREFIX = "t2tdeploy."
_HELP = "run t2tdeploy datagen again: it writes what is missing or damaged anew"


def schema_of(features: Mapping[str, FeatureSpec]) -> pyarrow.Schema:
    """The columns of a shard: `index`, those that are computed with, then the texts; see `codecs`."""
    fields = [codec.fields() for codec in codecs_of(features)]
    numbers, texts = [first for first, *_ in fields], [text for _, *rest in fields for text in rest]
    return pyarrow.schema([("index", pyarrow.int64()), *numbers, *texts])


def _rows_at_once(schema: pyarrow.Schema, most: int) -> int:
    """`most`, or fewer where rows are large."""
    return max(1, min(most, _BYTES_AT_ONCE // sum(_fixed_bytes(field.type) for field in schema)))


def _fixed_bytes(kind: pyarrow.DataType) -> int:
    """Bytes of a value, as far as the type tells."""
    if pyarrow.types.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    return int(kind.list_size) * 4 if pyarrow.types.is_fixed_size_list(kind) else 8


def shard_paths(data_dir: Path, name: str, split: str, num_shards: int) -> list[Path]:
    """DATA_DIR/NAME-SPLIT-00000-of-0000N.parquet and so on."""
    return [data_dir / f"{name}-{split}-{shard:05d}-of-{num_shards:05d}.parquet" for shard in range(num_shards)]


class ShardWriter:
    """Writes the rows of one shard, in groups; made by `shard_writer`."""

    def __init__(self, writer: pyarrow.parquet.ParquetWriter) -> None:
        self._writer = writer
        self._rows_per_group = _rows_at_once(writer.schema, _ROWS_PER_GROUP)
        self._columns: dict[str, list[Any]] = {name: [] for name in writer.schema.names}

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds one row, a value per column of the schema."""
        for name, column in self._columns.items():
            column.append(row[name])
        if len(self._columns["index"]) == self._rows_per_group:
            self.flush()

    def flush(self) -> None:
        """Writes the buffered rows as a row group."""
        if self._columns["index"]:
            self._writer.write_table(pyarrow.table(self._columns, schema=self._writer.schema))
            self._columns = {name: [] for name in self._columns}


@contextmanager
def shard_writer(path: Path, schema: pyarrow.Schema, metadata: Mapping[str, str]) -> Iterator[ShardWriter]:
    """A writer whose shard appears at `path`, whole, when the context ends without an exception.

    Args:
        schema: see `schema_of`.
        metadata: what the shard was made from; `is_complete` compares it.
    """
    schema = schema.with_metadata({_METADATA_PREFIX + key: value for key, value in metadata.items()})
    with (
        atomic_file(path) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as parquet,
    ):
        writer = ShardWriter(parquet)
        yield writer
        writer.flush()


def is_complete(path: Path, metadata: Mapping[str, str]) -> bool:
    """True if the shard is there, was made from the same things, and all of it can be read."""
    try:
        with _open_shard(path) as shard:
            found = shard.schema_arrow.metadata or {}
            if any(found.get((_METADATA_PREFIX + key).encode()) != value.encode() for key, value in metadata.items()):
                return False
            for _ in shard.iter_batches(batch_size=_rows_at_once(shard.schema_arrow, _ROWS_PER_GROUP)):
                pass
    except (OSError, pyarrow.ArrowException):
        return False
    return True


def _open_shard(path: Path) -> pyarrow.parquet.ParquetFile:
    return pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)


def memory_map(path: Path, shards: Sequence[Path], schema: pyarrow.Schema) -> pyarrow.Buffer:
    """The Arrow IPC file at `path` as a buffer; it is first transcribed from `shards` if it is not there.

    Args:
        schema: what the shards must have, see `schema_of`.

    Raises:
        InputError: a shard is missing, or the folder cannot be written.
        CorruptFileError: a shard is damaged.
    """
    if not path.is_file():
        try:
            _transcribe(path, shards, schema)
        except PermissionError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}",
                path=path,
                help="make the data folder writable once: training reads a memory map beside the shards",
            ) from error
    with pyarrow.memory_map(str(path)) as mapped:
        return mapped.read_buffer()


def _transcribe(path: Path, shards: Sequence[Path], schema: pyarrow.Schema) -> None:
    with atomic_file(path) as temporary, pyarrow.ipc.new_file(str(temporary), schema) as writer:
        for table in _interleaved(shards, schema):
            writer.write_table(table.combine_chunks())


def _interleaved(shards: Sequence[Path], schema: pyarrow.Schema) -> Iterator[pyarrow.Table]:
    """Tables of the rows of all shards in the order of `index`, read a slice of each shard at a time."""
    rows = max(1, _rows_at_once(schema, _ROWS_PER_MAP_BATCH) // len(shards))
    with ExitStack() as stack:
        slices = [_slices(path, rows, schema, stack) for path in shards]
        expected = 0
        while True:
            tables = [table for table in (next(shard, None) for shard in slices) if table is not None]
            if not tables:
                return
            table = pyarrow.concat_tables(tables).sort_by("index")
            if table["index"][0].as_py() != expected or table["index"][-1].as_py() != expected + len(table) - 1:
                raise CorruptFileError(shards[0].parent, "the shards of a split do not fit together", help=_HELP)
            expected += len(table)
            yield table


def _slices(path: Path, rows: int, schema: pyarrow.Schema, stack: ExitStack) -> Iterator[pyarrow.Table]:
    if not path.is_file():
        raise InputError(f"there is no shard {path}", path=path, help=_HELP)
    try:
        file = stack.enter_context(_open_shard(path))
        for batch in file.iter_batches(batch_size=rows):
            yield pyarrow.Table.from_batches([batch]).cast(schema)
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise CorruptFileError(path, str(error).splitlines()[0], help=_HELP) from error
