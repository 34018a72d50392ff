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
from t2tdeploy.files import atomic_file

SCHEMA = pyarrow.schema(
    [
        ("index", pyarrow.int64()),
        ("inputs", pyarrow.list_(pyarrow.int32())),
        ("targets", pyarrow.list_(pyarrow.int32())),
        ("inputs_text", pyarrow.string()),
        ("targets_text", pyarrow.string()),
    ]
)

_ROWS_PER_GROUP = 8192
_ROWS_PER_MAP_BATCH = 65536
_METADATA_PREFIX = "t2tdeploy."
_HELP = "run t2tdeploy datagen again: it writes what is missing or damaged anew"


def shard_paths(data_dir: Path, name: str, split: str, num_shards: int) -> list[Path]:
    """DATA_DIR/NAME-SPLIT-00000-of-0000N.parquet and so on."""
    return [data_dir / f"{name}-{split}-{shard:05d}-of-{num_shards:05d}.parquet" for shard in range(num_shards)]


class ShardWriter:
    """Writes the rows of one shard, in groups; made by `shard_writer`."""

    def __init__(self, writer: pyarrow.parquet.ParquetWriter) -> None:
        self._writer = writer
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds one row, a value per column of `SCHEMA`."""
        for name, column in self._columns.items():
            column.append(row[name])
        if len(self._columns["index"]) == _ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Writes the buffered rows as a row group."""
        if self._columns["index"]:
            self._writer.write_table(pyarrow.table(self._columns, schema=self._writer.schema))
            self._columns = {name: [] for name in SCHEMA.names}


@contextmanager
def shard_writer(path: Path, metadata: Mapping[str, str]) -> Iterator[ShardWriter]:
    """A writer whose shard appears at `path`, whole, when the context ends without an exception.

    Args:
        metadata: what the shard was made from; `is_complete` compares it.
    """
    schema = SCHEMA.with_metadata({_METADATA_PREFIX + key: value for key, value in metadata.items()})
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
            for _ in shard.iter_batches(batch_size=_ROWS_PER_GROUP):
                pass
    except (OSError, pyarrow.ArrowException):
        return False
    return True


def _open_shard(path: Path) -> pyarrow.parquet.ParquetFile:
    return pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)


def memory_map(path: Path, shards: Sequence[Path]) -> pyarrow.Buffer:
    """The Arrow IPC file at `path` as a buffer; it is first transcribed from `shards` if it is not there.

    Raises:
        InputError: a shard is missing, or the folder cannot be written.
        CorruptFileError: a shard is damaged.
    """
    if not path.is_file():
        try:
            _transcribe(path, shards)
        except PermissionError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}",
                path=path,
                help="make the data folder writable once: training reads a memory map beside the shards",
            ) from error
    with pyarrow.memory_map(str(path)) as mapped:
        return mapped.read_buffer()


def _transcribe(path: Path, shards: Sequence[Path]) -> None:
    with atomic_file(path) as temporary, pyarrow.ipc.new_file(str(temporary), SCHEMA) as writer:
        for table in _interleaved(shards):
            writer.write_table(table.combine_chunks())


def _interleaved(shards: Sequence[Path]) -> Iterator[pyarrow.Table]:
    """Tables of the rows of all shards in the order of `index`, read a slice of each shard at a time."""
    rows = max(1, _ROWS_PER_MAP_BATCH // len(shards))
    with ExitStack() as stack:
        slices = [_slices(path, rows, stack) for path in shards]
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


def _slices(path: Path, rows: int, stack: ExitStack) -> Iterator[pyarrow.Table]:
    if not path.is_file():
        raise InputError(f"there is no shard {path}", path=path, help=_HELP)
    try:
        file = stack.enter_context(_open_shard(path))
        for batch in file.iter_batches(batch_size=rows):
            yield pyarrow.Table.from_batches([batch]).cast(SCHEMA)
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise CorruptFileError(path, str(error).splitlines()[0], help=_HELP) from error
