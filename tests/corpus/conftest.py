"""Corpora of every kind of row, and what translates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.corpus.job import CorpusJob, make_job
from t2tdeploy.corpus.run import run_here
from t2tdeploy.corpus.source import find_files, open_files
from t2tdeploy.decoding import TranslateOptions
from tests.serving.toy_bundle import write_toy_bundle

MakeJob = Callable[..., CorpusJob]
HERE = run_here(threads=1)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def write_corpus(path: Path, sources: Sequence[str | None], **settings: Any) -> Path:
    """Columns of several types around the one that is translated."""
    columns = {
        "id": pyarrow.array(range(len(sources)), pyarrow.int32()),
        "source": pyarrow.array(sources, pyarrow.string()),
        "tags": pyarrow.array([[str(number)] * (number % 3) for number in range(len(sources))]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **settings)
    return path


@pytest.fixture
def make(bundle: Bundle, tmp_path: Path) -> MakeJob:
    """The job of a file or folder into tmp_path / "out"."""

    toy = bundle

    def make(source: Path, output: str = "out", bundle: Bundle = toy, **settings: Any) -> CorpusJob:
        names = {"column": "source", "translation_column": "translation", "score_column": "score"}
        fields = {**names, "on_error": "fail", "block_rows": 10, "options": TranslateOptions(), **settings}
        files = open_files(find_files(source), fields["column"], [fields["translation_column"], fields["score_column"]])
        return make_job(files, bundle, tmp_path / output, **fields)

    return make


def sums(job: CorpusJob) -> list[bytes]:
    """The content of every part."""
    return [job.part(number).read_bytes() for number in range(job.num_blocks)]
