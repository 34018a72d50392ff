"""Pieces of searches on disk: found by the next process, made again where they are damaged, and nobody needs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from t2tdeploy.export import backtrace, forward, kept
from t2tdeploy.export.beam_search import export_beam_search
from tests.models.tiny import tiny_transformer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("T2TDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pieces"


def graph(name: str) -> ModelProto:
    values = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1]) for end in ("x", "y")]
    node = helper.make_node("Identity", ["x"], ["y"], name=name)
    return helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))


class Maker:
    """Counts how often it made its graphs."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, ModelProto]:
        self.times += 1
        return {"first": graph("a"), "second": graph("b")}


def test_what_was_made_once_is_found() -> None:
    make, expected = Maker(), Maker()()
    for _ in range(2):
        assert kept.kept("some", make) == expected
    assert make.times == 1
    assert kept.kept("others", make) == expected
    assert make.times == 2


@pytest.mark.parametrize("content", [b"", b"PK", b"half"])
def test_what_is_damaged_is_made_again(folder: Path, content: bytes) -> None:
    make = Maker()
    expected = kept.kept("some", make)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + whole[len(whole) // 2 + 1 :] if content == b"half" else content)
    assert kept.kept("some", make) == expected
    assert make.times == 2
    assert kept.kept("some", make) == expected
    assert make.times == 2


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("T2TDEPLOY_CACHE", str(tmp_path / "file"))
    make = Maker()
    assert kept.kept("some", make) == make()


def test_other_code_has_other_graphs_and_the_newest_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, keys = Maker(), "abcdef"
    for number, key in enumerate(keys):
        monkeypatch.setattr(kept, "_key", lambda key=key: key)
        kept.kept("some", make)
        os.utime(folder / f"some-{key}.zip", (number, number))
    assert make.times == len(keys)
    monkeypatch.setattr(kept, "_key", lambda: "g")
    kept.kept("some", make)
    assert {path.name for path in folder.iterdir()} == {f"some-{key}.zip" for key in "defg"}


@pytest.fixture
def forgetful() -> Iterator[None]:
    """The process does not remember what it traced, before and after."""
    remembered = (forward._pieces_of_search, forward._update_of_no_rows, backtrace.export_backtrace)
    for one in remembered:
        one.cache_clear()
    yield
    for one in remembered:
        one.cache_clear()


def test_a_search_of_kept_pieces_is_that_of_traced_ones(folder: Path, forgetful: None) -> None:
    model = tiny_transformer(20, layers=1)
    traced = export_beam_search(model)
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {"search", "update", "backtrace"}
    for one in (forward._pieces_of_search, forward._update_of_no_rows, backtrace.export_backtrace):
        one.cache_clear()
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    found = export_beam_search(model)
    assert found.SerializeToString() == traced.SerializeToString()
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    onnx.checker.check_model(found)
