"""Samples of labels: classes are found, recorded and required."""

import json

import pytest

from t2tdeploy.errors import InputError
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.problems.problem import DataOptions, Problem, TextToClass, text_feature
from t2tdeploy.progress import SilentReporter
from t2tdeploy.tokenizer import ByteTokenizer


class _Messages(SilentReporter):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def problem_of(**splits: list[str]) -> TextToClass:
    """A problem whose examples have these labels."""

    class Letters(TextToClass):
        def generate_samples(self, split, source_dir, reporter):
            del source_dir, reporter
            for number, label in enumerate(splits.get(split, [])):
                yield {"inputs": f"text {number}", "targets": label}

    return Letters(Letters.options_class.create({"vocab_kind": "bytes"}))


def test_a_class_that_train_lacks_is_named_with_its_sample(tmp_path):
    problem = problem_of(train=["a", "b"] * 5, dev=["a", "c"])
    with pytest.raises(InputError, match=r"sample 2 of split dev .* 'targets' is 'c', which is no class.*: a, b"):
        generate(problem, data_dir=tmp_path, source_dir=tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.parametrize("label", ["", "  ", None])
def test_an_empty_label_is_named_with_its_sample(tmp_path, label):
    with pytest.raises(InputError, match=r"sample 2 of split train .* 'targets' is"):
        generate(problem_of(train=["a", label]), data_dir=tmp_path, source_dir=tmp_path)


def test_one_class_is_not_enough(tmp_path):
    with pytest.raises(
        InputError, match=r"all 4 training examples .* have the same class, 'a', in 'targets'"
    ) as caught:
        generate(problem_of(train=["a"] * 4), data_dir=tmp_path, source_dir=tmp_path)
    assert "two classes" in caught.value.help


def test_declared_classes_without_examples_are_reported_and_stay(tmp_path):
    problem = problem_of(train=["b", "c"])
    problem.classes = ("a", "b", "c", "d")
    reporter = _Messages()
    generate(problem, data_dir=tmp_path, source_dir=tmp_path, reporter=reporter)
    assert any("no training example" in text and text.endswith(": a, d") for text in reporter.messages)
    statistics = json.loads((tmp_path / "letters.statistics.json").read_text())
    assert statistics["splits"]["train"]["targets"] == {"classes": {"a": 0, "b": 1, "c": 1, "d": 0}}
    record = json.loads((tmp_path / "letters.json").read_text())
    assert record["features"]["targets"]["classes"] == ["a", "b", "c", "d"]


def test_other_classes_make_the_shards_anew(tmp_path):
    """The same texts and labels, but the ids of the labels are others."""
    first, second = problem_of(train=["b", "c"]), problem_of(train=["b", "c"])
    second.classes = ("c", "b")
    before = generate(first, data_dir=tmp_path, source_dir=tmp_path)
    ids = {}
    for problem in (first, second):
        after = generate(problem, data_dir=tmp_path, source_dir=tmp_path)
        data = ProblemData(problem, after, tmp_path, {"inputs": ByteTokenizer()})
        ids[problem] = data.split("train").batch([0, 1])["targets"].tolist()
    assert before.hash != after.hash
    assert ids == {first: [0, 1], second: [1, 0]}


def test_workers_write_what_one_process_writes(make_problem, tmp_path, usr_dir):
    """Of features that are not text, with classes found in the data."""
    one = generate(make_problem("toy_row"), data_dir=tmp_path / "one", source_dir=tmp_path)
    two = generate(
        make_problem("toy_row"), data_dir=tmp_path / "two", source_dir=tmp_path, processes=2, usr_dirs=[usr_dir]
    )
    assert one == two
    for split in one.splits:
        first, second = (open_problem("toy_row", tmp_path / folder).split(split) for folder in ("one", "two"))
        assert first._table.equals(second._table)


def test_a_rerun_writes_nothing(make_problem, tmp_path):
    first = generate(make_problem("toy_row"), data_dir=tmp_path / "data", source_dir=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert generate(make_problem("toy_row"), data_dir=tmp_path / "data", source_dir=tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_without_text_there_is_no_vocabulary(make_problem, tmp_path):
    record = generate(make_problem("toy_row"), data_dir=tmp_path / "data", source_dir=tmp_path)
    assert record.vocabularies == record.tokenizer_hashes == {}
    assert not list((tmp_path / "data").glob("*.vocab"))
    statistics = json.loads((tmp_path / "data/toy_row.statistics.json").read_text())["splits"]["train"]
    assert statistics["number"] == {"mean": 149.5, "deviation": 86.6021, "min": 0.0, "max": 299.0}
    assert statistics["tags"] == {"classes": {"a": 150, "b": 150, "c": 148}}
    assert (tmp_path / "data/toy_row.statistics.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_text_without_options_of_vocabularies_is_an_error(tmp_path):
    class Bare(Problem):
        def features(self, tokenizers):
            return {name: text_feature(name, tokenizers, vocabulary=name) for name in ("inputs", "targets")}

        def generate_samples(self, split, source_dir, reporter):
            yield {"inputs": "a", "targets": "b"}

    with pytest.raises(InputError, match="'bare' has text, but its options are DataOptions") as caught:
        generate(Bare(DataOptions()), data_dir=tmp_path, source_dir=tmp_path)
    assert "TextOptions" in caught.value.help
