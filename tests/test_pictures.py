"""Pictures that commands write."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from t2tdeploy.pictures import FORMATS, as_label, save

pytest.importorskip("matplotlib")
from matplotlib import rc_context
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


@pytest.mark.parametrize("text", ["$20k_to_$40k", "$5^$10", "$10-$20", "$", "a$", r"\$5\$", "no dollars"])
def test_a_label_shows_the_text_letter_by_letter(tmp_path: Path, text: str) -> None:
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, as_label(text))
    with rc_context({"svg.fonttype": "none"}):  # texts stay texts
        save(figure, tmp_path / "a.svg")
    assert f">{text}</text>" in (tmp_path / "a.svg").read_text()


def test_a_long_label_is_cut() -> None:
    assert as_label("abcdefgh", longest=8) == "abcdefgh"
    assert as_label("abcdefghi", longest=8) == "abcdefg…"
    assert as_label("$" * 9, longest=8).count(r"\$") == 7
