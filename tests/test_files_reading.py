"""Every reader of the user's files says alike why one cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from t2tdeploy.cli.lines import read_bytes
from t2tdeploy.corpus.source import find_files, open_files
from t2tdeploy.errors import InputError
from t2tdeploy.files import reading
from t2tdeploy.images import read_image
from t2tdeploy.problems.idx_files import read_idx
from t2tdeploy.problems.input_functions import input_fn, read_input
from t2tdeploy.problems.row_files import Column, read_rows
from t2tdeploy.problems.tables import read_table
from t2tdeploy.problems.text import BadLines, read_lines
from tests.unprivileged import as_nobody, folder_for_all

Reader = Callable[[Path], object]

READERS: dict[str, Reader] = {
    "lines.tsv": lambda path: list(read_rows(path, "tsv", [Column("a")], BadLines())),
    "rows.parquet": lambda path: list(read_rows(path, "parquet", [Column("a")], BadLines())),
    "texts.gz": lambda path: list(read_lines(path)),
    "table.csv": lambda path: read_table(path, "csv", BadLines()),
    "table.parquet": lambda path: read_table(path, "parquet", BadLines()),
    "input.parquet": lambda path: read_input(input_fn(path)),
    "corpus.parquet": lambda path: open_files(find_files(path), "a", []),
    "labels-idx1-ubyte": lambda path: read_idx(path, 1),
    "image.png": lambda path: read_image(path, (1, 1, 1)),
    "sentences.txt": lambda path: read_bytes(path),
}

FOLDERS = {"table.parquet", "input.parquet", "corpus.parquet"}
"""Which also read the files of a folder."""


@pytest.mark.parametrize("name", READERS)
def test_every_reader_says_why_a_file_cannot_be_read(name: str) -> None:
    with folder_for_all() as folder:
        missing, below, forbidden = folder / f"_{name}", folder / name / "x", folder / name
        forbidden.write_bytes(b"a,b\n1,2\n")
        forbidden.chmod(0)
        for path, words, help in (
            (missing, f"there is no file {missing}", f"did you mean '{name}'?"),
            (below, f"there is no file {below}", None),
            (forbidden, f"cannot read {forbidden}: Permission denied", None),
        ):
            with pytest.raises(InputError) as caught, as_nobody():
                READERS[name](path)
            assert str(caught.value) == words
            assert caught.value.path == path
            assert caught.value.help == help


@pytest.mark.parametrize("name", sorted(READERS.keys() - FOLDERS))
def test_no_reader_takes_a_folder_for_a_damaged_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name} is a folder, not a file") as caught:
        READERS[name](tmp_path / name)
    assert caught.value.help == "name one file in it"


def test_what_a_library_says_of_the_content_is_left_to_its_caller(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match=r"^cut off$") as caught, reading(tmp_path / "a"):
        raise OSError("cut off")
    assert not isinstance(caught.value, InputError)
