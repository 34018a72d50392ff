"""Statistics say what is in the data."""

import json

import pytest

from t2tdeploy.hparams import HParams
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.problem import ProblemOptions, TextToText
from t2tdeploy.problems.tabular_csv import TabularCsv, TabularCsvOptions
from t2tdeploy.problems.text import read_pairs

LINES = {
    "train": [("a", "b"), ("long " * 60, "c"), ("a", "b"), ("shared", "geteilt"), ("a", "other")],
    "dev": [("shared", "geteilt"), ("x", "y")],
}


class FilePairs(TextToText):
    """Pairs of SPLIT.en and SPLIT.de."""

    def generate_samples(self, split, source_dir, reporter):
        del reporter
        if split != "test":
            yield from read_pairs(source_dir / f"{split}.en", source_dir / f"{split}.de", self.bad_lines)


@pytest.fixture
def content(tmp_path):
    for split, pairs in LINES.items():
        (tmp_path / f"{split}.en").write_bytes("".join(f"{source}\n" for source, _ in pairs).encode() + b"bad\xff\n")
        (tmp_path / f"{split}.de").write_bytes("".join(f"{target}\n" for _, target in pairs).encode() + b"gut\n")
    generate(FilePairs(ProblemOptions(vocab_kind="bytes")), data_dir=tmp_path / "data", source_dir=tmp_path)
    return json.loads((tmp_path / "data/file_pairs.statistics.json").read_text())


def test_bad_lines_are_in_the_statistics_once(content):
    entry = {"file": "train.en", "reason": "not UTF-8", "count": 1, "first_lines": [6]}
    assert content["splits"]["train"]["bad_lines"] == [entry]
    assert content["splits"]["train"]["examples"] == 5


def test_duplicates_within_and_between_splits(content):
    assert content["splits"]["train"]["duplicates"] == 1
    assert content["splits"]["dev"]["duplicates"] == 0
    assert content["shared_between_splits"] == [{"splits": ["train", "dev"], "examples": 1}]


def test_lengths_are_in_tokens_with_eos(content):
    lengths = [len(source.strip().encode()) + 1 for source, _ in LINES["train"]]
    inputs = content["splits"]["train"]["inputs"]
    assert (inputs["tokens"], inputs["max"]) == (sum(lengths), max(lengths))
    assert inputs["mean"] == pytest.approx(sum(lengths) / 5, abs=0.01)
    assert inputs["longer_than_max_length"] == content["splits"]["train"]["longer_than_max_length"] == 1


def test_the_limit_is_that_of_the_problems_own_hparams(content, tmp_path):
    assert content["max_length"] == HParams().max_length == 256

    class Short(FilePairs):
        default_hparams = "dropout=0.3,max_length=6"

    generate(Short(ProblemOptions(vocab_kind="bytes")), data_dir=tmp_path / "data", source_dir=tmp_path)
    found = json.loads((tmp_path / "data/short.statistics.json").read_text())
    assert found["max_length"] == 6
    train = found["splits"]["train"]
    assert train["longer_than_max_length"] == 2  # the long one, and shared/geteilt
    assert train["targets"]["longer_than_max_length"] == 1


def test_a_split_without_examples_is_there_with_none(content):
    assert content["splits"]["test"] == {"examples": 0, "bad_lines": []}


def test_the_picture_is_a_png(content, tmp_path):
    assert content["problem"] == "file_pairs"
    assert (tmp_path / "data/file_pairs.statistics.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_classes_with_dollar_signs_are_drawn_as_they_are_written(tmp_path):
    names = ("$20k_to_$40k", "$5^$10", "$50% off $100")
    (tmp_path / "a.csv").write_text("x,pay\n" + "".join(f"{i % 5 + 0.5},{names[i % 3]}\n" for i in range(60)))
    problem = TabularCsv(TabularCsvOptions.create({"train": "a.csv", "target": "pay"}))
    generate(problem, data_dir=tmp_path / "data", source_dir=tmp_path)
    assert (tmp_path / "data/tabular_csv.statistics.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(("byte_fallback", "key"), [(True, "byte_fallback_share"), (False, "unknown_share")])
def test_characters_without_an_entry_are_counted(make_problem, tmp_path, byte_fallback, key):
    class Emoji(type(make_problem("toy_pairs"))):
        def generate_samples(self, split, source_dir, reporter):
            yield from super().generate_samples(split, source_dir, reporter)
            if split == "dev":
                yield {"inputs": "word 😀", "targets": "Wort 😀"}

    problem = Emoji(ProblemOptions(vocab_size=300, byte_fallback=byte_fallback))
    generate(problem, data_dir=tmp_path / "data", source_dir=tmp_path)
    splits = json.loads((tmp_path / "data/emoji.statistics.json").read_text())["splits"]
    assert splits["dev"]["inputs"][key] > 0
    assert splits["dev"]["inputs"][key] > splits["train"]["inputs"][key]
