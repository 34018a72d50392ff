"""A file of values that another character separates: read if it is said, else refused with what to say."""

from pathlib import Path

import pytest

from t2tdeploy.errors import InputError
from t2tdeploy.problems.problem import Problem, get_problem
from t2tdeploy.progress import SilentReporter

ROWS = [(f"text {number}, so", ("ja", "nein")[number % 2]) for number in range(6)]
NONE_HELD_OUT = "held_out_dev=none,held_out_test=none"


def problem_of(name: str, overrides: str) -> Problem:
    problem_class = get_problem(name)
    return problem_class(problem_class.options_class().override(overrides))


@pytest.mark.parametrize("name", ["translate_pairs", "text_class_pairs"])
@pytest.mark.parametrize(
    ("file", "separator", "say"),
    [
        ("a.csv", ";", "separator=;"),
        ("a.csv", "|", "separator=|"),
        ("a.csv", "\t", "format=tsv"),
        ("a.tsv", ";", "separator=;"),
    ],
)
def test_another_separator_is_named_and_then_read(
    tmp_path: Path, name: str, file: str, separator: str, say: str
) -> None:
    rows = [(text.replace(",", ""), target) for text, target in ROWS]
    lines = [("en", "de"), *rows]
    (tmp_path / file).write_text("".join(separator.join(line) + "\n" for line in lines))
    overrides = f"train={file},inputs_column=en,targets_column=de,{NONE_HELD_OUT}"
    with pytest.raises(InputError, match="has one column, 'en") as caught:
        list(problem_of(name, overrides).generate_samples("train", tmp_path, SilentReporter()))
    assert caught.value.help is not None
    assert caught.value.help.endswith(f": say {say}")
    found = list(problem_of(name, f"{overrides},{say}").generate_samples("train", tmp_path, SilentReporter()))
    assert [(sample["inputs"], sample["targets"]) for sample in found] == rows


@pytest.mark.parametrize("name", ["translate_pairs", "text_class_pairs"])
def test_without_a_header_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_text("".join(";".join(row).replace(",", "") + "\n" for row in ROWS))
    overrides = "train=a.csv,inputs_column=0,targets_column=1"
    with pytest.raises(InputError, match="has 2 columns separated by commas") as caught:
        list(problem_of(name, overrides).generate_samples("train", tmp_path, SilentReporter()))
    assert caught.value.help == "it looks separated by semicolons: say separator=;"


def test_values_in_quotes_may_hold_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('inputs;targets\n"a; b";c, d\n')
    problem = problem_of("translate_pairs", f"train=a.csv,separator=;,{NONE_HELD_OUT}")
    found = list(problem.generate_samples("train", tmp_path, SilentReporter()))
    assert found == [{"inputs": "a; b", "targets": "c, d"}]


@pytest.mark.parametrize(("train", "said"), [("a.jsonl", "read as jsonl"), ("[a.en,a.de]", "is two text files")])
def test_a_separator_where_there_is_none_is_refused(tmp_path: Path, train: str, said: str) -> None:
    for file in ("a.jsonl", "a.en", "a.de"):
        (tmp_path / file).write_text("{}\n")
    problem = problem_of("translate_pairs", f"train={train},separator=;")
    with pytest.raises(InputError, match=f"{said}, which ha[sv]e? no separator, but separator = ';'"):
        list(problem.generate_samples("train", tmp_path, SilentReporter()))
