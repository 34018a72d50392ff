"""The examples of docs/your-data.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t2tdeploy import registry
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.pairs import PairsOptions
from t2tdeploy.problems.problem import get_problem

PAGE = (Path(__file__).parents[2] / "docs" / "your-data.md").read_text(encoding="utf-8")


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.problems.names()  # loads the built-in ones
    monkeypatch.setattr(registry.problems, "_objects", dict(registry.problems._objects))


@pytest.mark.usefixtures("_own_registry")
def test_the_problem_of_the_page_goes_through_datagen(tmp_path: Path) -> None:
    problem_code, options_code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    folder = tmp_path / "my_problems"
    folder.mkdir()
    (folder / "colors.py").write_text(problem_code + options_code, encoding="utf-8")
    registry.import_usr_dir(folder)
    problem_class = get_problem("translate_colors")
    problem = problem_class(problem_class.options_class().override("vocab_size=300"))
    record = generate(problem, data_dir=tmp_path / "data", source_dir=tmp_path)
    assert sum(split.examples for split in record.splits.values()) == 2000
    dev = open_problem("translate_colors", tmp_path / "data").split("dev")
    assert (dev.texts("inputs")[0], dev.texts("targets")[0]) == ("house 1 is red", "das Haus 1 ist rot")


def test_the_options_of_the_page_exist() -> None:
    overrides = re.findall(r"\| `(train=[^`]*)` \|", PAGE)
    assert len(overrides) == 10
    for text in overrides:
        PairsOptions().override(text)
    for name in re.findall(r"^\| `(\w+)` \| \S+ \|", PAGE, re.MULTILINE):
        assert name in PairsOptions.model_fields
