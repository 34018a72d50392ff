"""Pictures that commands write."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from t2tdeploy.pictures import FORMATS, save

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

STARTS = {".pdf": b"%PDF", ".png": b"\x89PNG", ".svg": b"<?xml"}


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_a_picture_goes_where_its_name_leads(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"link{ending}").symlink_to("target")
    save(Figure(figsize=(1, 1)), tmp_path / f"link{ending}")
    assert (tmp_path / f"link{ending}").is_symlink()
    assert (tmp_path / "target").read_bytes().startswith(STARTS[ending])


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_a_picture_is_written_to_a_pipe(tmp_path: Path, ending: str) -> None:
    pipe = tmp_path / f"pipe{ending}"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        save(Figure(figsize=(1, 1)), pipe)
        assert read.result(timeout=10).startswith(STARTS[ending])
    assert pipe.is_fifo()
