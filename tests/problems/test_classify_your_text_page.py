"""The examples of docs/classify-your-text.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t2tdeploy import registry
from t2tdeploy.features import Modality
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.problem import get_problem
from t2tdeploy.problems.text_classes import TextClassOptions

PAGE = (Path(__file__).parents[2] / "docs" / "classify-your-text.md").read_text(encoding="utf-8")


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.problems.names()  # loads the built-in ones
    monkeypatch.setattr(registry.problems, "_objects", dict(registry.problems._objects))


@pytest.mark.usefixtures("_own_registry")
def test_the_problem_of_the_page_goes_through_datagen(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    folder = tmp_path / "my_problems"
    folder.mkdir()
    (folder / "things.py").write_text(code, encoding="utf-8")
    registry.import_usr_dir(folder)
    problem_class = get_problem("fruit_or_tool")
    problem = problem_class(problem_class.options_class().override("vocab_kind=bytes"))
    record = generate(problem, data_dir=tmp_path / "data", source_dir=tmp_path)
    assert {split: size.examples for split, size in record.splits.items()} == {"train": 200, "dev": 200, "test": 200}
    dev = open_problem("fruit_or_tool", tmp_path / "data").split("dev")
    assert (dev.texts("inputs")[1], dev.texts("targets")[1]) == ("hammer number 1", "tool")


def test_the_options_of_the_page_exist() -> None:
    overrides = re.findall(r"\| `(train=[^`]*)`", PAGE)
    assert len(overrides) == 9
    for text in overrides:
        TextClassOptions().override(text)
    for name in re.findall(r"`(\w+)=", PAGE):
        assert name in TextClassOptions.model_fields


def test_the_modalities_of_the_page_are_those_there_are() -> None:
    assert re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE) == [modality.name for modality in Modality]
