"""What a worker of Ray answers for a block; a cluster is not needed."""

from __future__ import annotations

import errno
import importlib.util
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from t2tdeploy.corpus.block import BlockTranslator
from t2tdeploy.corpus.job import BLOCKS, Block
from t2tdeploy.corpus.run import translate_corpus
from t2tdeploy.errors import OperationalError
from t2tdeploy.progress import SilentReporter
from tests.corpus.conftest import HERE, MakeJob, sums, write_corpus


@pytest.fixture
def ray_or_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray if it is installed, else empty modules of its names: a worker's answer has nothing of Ray in it."""
    if importlib.util.find_spec("ray"):
        yield
        return
    empty, data = ModuleType("ray"), ModuleType("ray.data")
    empty.data = data  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", empty)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    yield
    sys.modules.pop("t2tdeploy.corpus.ray_runner")  # nobody else may find it there, made of nothing


@pytest.mark.usefixtures("ray_or_nothing")
@pytest.mark.parametrize(("place", "said"), [("/full/part", "/full/part: "), (None, "")])
def test_a_full_disk_is_an_error_of_ours(
    make: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None, said: str
) -> None:
    from t2tdeploy.corpus.ray_runner import _Worker

    def full(self: BlockTranslator, block: Block) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)

    monkeypatch.setattr(BlockTranslator, "run", full)
    job = make(write_corpus(tmp_path / "in.parquet", ["a"]))
    (answer,) = _Worker(job, 1)({"block": [pickle.dumps(job.blocks()[0])]})["outcome"]
    outcome = pickle.loads(answer)
    assert isinstance(outcome, OperationalError)
    assert outcome.message == f"{said}No space left on device"


@pytest.mark.usefixtures("ray_or_nothing")
def test_workers_that_share_a_row_group_write_what_one_process_writes(make: MakeJob, tmp_path: Path) -> None:
    """Blocks come in any order, and again if a worker was lost."""
    from t2tdeploy.corpus.ray_runner import _Worker

    source = write_corpus(tmp_path / "in.parquet", [f"{'word ' * (number % 9)}{number}" for number in range(35)])
    job, whole = make(source, block_rows=4), make(source, "whole", block_rows=4)
    translate_corpus(whole, HERE, SilentReporter())
    (job.output / BLOCKS).mkdir(parents=True)
    job.claim()
    first, second = _Worker(job, 1), _Worker(job, 1)
    for worker, numbers in ((first, (0, 3, 2, 8)), (second, (1, 4, 6, 5, 7, 3))):
        for number in numbers:
            worker({"block": [pickle.dumps(job.blocks()[number])]})
    assert translate_corpus(job, HERE, SilentReporter()).blocks_kept == 9
    assert sums(job) == sums(whole)
