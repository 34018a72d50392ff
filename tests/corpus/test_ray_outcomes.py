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
from t2tdeploy.corpus.job import Block
from t2tdeploy.errors import OperationalError
from tests.corpus.conftest import MakeJob, write_corpus


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
