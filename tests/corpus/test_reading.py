"""A corpus is read once, and never held, however large its row groups are."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from t2tdeploy.corpus.run import translate_corpus
from t2tdeploy.corpus.source import RowReader
from t2tdeploy.errors import CorruptFileError
from t2tdeploy.progress import SilentReporter
from tests.corpus.conftest import HERE, MakeJob, write_corpus

FOOTER = 1 << 17
"""Bytes, at most, that opening one of these files reads."""


class Counted(io.FileIO):
    """A file that counts the bytes read of all of its kind."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(-1 if size is None else size)
        Counted.count += len(content)
        return content


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    """Counts what is read of every Parquet file that is opened by its path."""
    opening = pyarrow.parquet.ParquetFile.__init__

    def init(self: Any, source: Any, *args: Any, **settings: Any) -> None:
        opening(self, Counted(source) if isinstance(source, Path) else source, *args, **settings)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "__init__", init)
    Counted.count = 0
    return Counted


def one_group(path: Path, rows: int) -> Path:
    return write_corpus(path, [f"sentence {number * 7919}" for number in range(rows)], row_group_size=rows)


def read_all(path: Path, rows: int, block: int) -> None:
    with RowReader() as reader:
        for start in range(0, rows, block):
            assert reader.read(path, start, min(start + block, rows)).num_rows == min(block, rows - start)


@pytest.mark.parametrize("rows_of_a_block", [7, 100, 3000, 20_000])
def test_blocks_in_order_read_a_row_group_once(tmp_path: Path, counted: type[Counted], rows_of_a_block: int) -> None:
    path = one_group(tmp_path / "in.parquet", 20_000)
    read_all(path, 20_000, rows_of_a_block)
    assert path.stat().st_size / 2 < counted.count < path.stat().st_size + FOOTER


def test_a_worker_that_gets_every_third_block_reads_a_row_group_once(tmp_path: Path, counted: type[Counted]) -> None:
    path = one_group(tmp_path / "in.parquet", 20_000)
    with RowReader() as reader:
        for start in range(0, 20_000, 300):
            assert reader.read(path, start, start + 100).column("id")[0].as_py() == start
    assert counted.count < path.stat().st_size + FOOTER


def test_row_groups_between_are_left_out(tmp_path: Path, counted: type[Counted]) -> None:
    path = write_corpus(
        tmp_path / "in.parquet", [f"{number * 7919}" for number in range(40_000)], row_group_size=10_000
    )
    with RowReader() as reader:
        for start in (100, 30_000):
            assert reader.read(path, start, start + 10).column("id").to_pylist() == list(range(start, start + 10))
    assert counted.count < path.stat().st_size / 2 + FOOTER


def test_a_run_reads_its_input_once_and_the_texts_again(make: MakeJob, tmp_path: Path, counted: type[Counted]) -> None:
    """The check at the end asks for no other column."""
    table = pyarrow.table({"source": ["a", "b"] * 1000, "wide": [str(number) * 100 for number in range(2000)]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", compression="none", use_dictionary=["source"])
    job = make(tmp_path / "in.parquet", block_rows=100)
    counted.count = 0
    translate_corpus(job, HERE, SilentReporter())
    parts = sum(job.part(number).stat().st_size for number in range(job.num_blocks))
    assert counted.count < 1.2 * (tmp_path / "in.parquet").stat().st_size + parts + FOOTER


def test_what_is_held_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    """In a process of its own, whose memory is only used for reading."""
    program = (
        "import sys, pathlib, pyarrow; from tests.corpus.test_reading import read_all;"
        "read_all(pathlib.Path(sys.argv[1]), 20_000, 1000); print(pyarrow.default_memory_pool().max_memory())"
    )
    held = []
    for rows in (100_000, 400_000):
        path = one_group(tmp_path / "in.parquet", rows)
        process = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        held.append(int(process.stdout))
    assert held[1] < 1.5 * held[0]


def test_a_block_is_the_same_bytes_wherever_the_reading_began(tmp_path: Path) -> None:
    """In one go, after a stop, or by a worker that has got others before."""
    texts = ["".join(chr(97 + number * place % 26) for place in range(number % 2000)) for number in range(9000)]
    columns = {
        "source": pyarrow.array(texts),
        "kind": pyarrow.array([f"kind {number * number % 511}" for number in range(9000)]).dictionary_encode(),
        "lists": pyarrow.array([[text[:5]] * (len(text) % 4) for text in texts]),
    }
    path = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=5000)
    starts = [*range(0, 9000, 700), 4900, 100, 8300, 0]

    def written(table: pyarrow.Table) -> bytes:
        sink = io.BytesIO()
        pyarrow.parquet.write_table(table, sink)
        return sink.getvalue()

    with RowReader() as reader:
        for start in starts:
            stop = min(start + 700, 9000)
            found = reader.read(path, start, stop)
            with RowReader() as fresh:
                assert written(found) == written(fresh.read(path, start, stop))
            assert found.column("source").to_pylist() == texts[start:stop]


def test_damage_is_told_each_time_it_is_met(tmp_path: Path) -> None:
    """A worker is given further blocks after one that it failed at."""
    path = one_group(tmp_path / "in.parquet", 20_000)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with RowReader() as reader:
        for _ in range(2):
            with pytest.raises(CorruptFileError):
                _ = [reader.read(path, start, start + 4000) for start in range(0, 20_000, 4000)]


def test_a_file_that_became_shorter_is_seen(tmp_path: Path) -> None:
    path = one_group(tmp_path / "in.parquet", 30)
    with RowReader() as reader, pytest.raises(CorruptFileError, match="fewer than 40 rows"):
        reader.read(path, 20, 40)
