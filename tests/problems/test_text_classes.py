"""The user's own labelled texts: forms of files, classes, what is held out, and every way to get them wrong."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from t2tdeploy.errors import InputError, SettingsError
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.text_classes import TextClassOptions, TextClassPairs
from t2tdeploy.progress import SilentReporter

SPLITS = ("train", "dev", "test")
TEXTS = [(f"text number {i}", ("bad", "good", "so-so")[i % 3]) for i in range(300)]
ALL_TRAIN = "held_out_dev=none,held_out_test=none"


class _Messages(SilentReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def write(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def problem_of(overrides: str) -> TextClassPairs:
    return TextClassPairs(TextClassOptions().override(overrides))


def read(problem: TextClassPairs, folder: Path, split: str) -> list[tuple[Any, str]]:
    found = problem.generate_samples(split, folder, SilentReporter())
    return [(sample["inputs"], sample["targets"]) for sample in found]


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("label", "text"), *((label, text) for text, label in TEXTS)])


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in TEXTS))


def write_parquet(path: Path) -> None:
    texts, labels = zip(*TEXTS, strict=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": labels}), path)


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("a.tsv", lambda path: write(path, TEXTS)),
        ("a.csv", write_csv),
        ("a.jsonl", write_jsonl),
        ("a.parquet", write_parquet),
    ],
)
def test_every_form_gives_the_same_texts(tmp_path: Path, name: str, writer: Any) -> None:
    writer(tmp_path / name)
    problem = problem_of(f"train={name},{ALL_TRAIN}")
    assert read(problem, tmp_path, "train") == TEXTS
    assert problem.classes == ("bad", "good", "so-so")
    assert read(problem, tmp_path, "dev") == read(problem, tmp_path, "test") == []


def test_pairs_of_texts_go_through_datagen(tmp_path: Path) -> None:
    rows = [("premise", "verdict", "hypothesis"), *((f"p {i}", "ny"[i % 2], f"h {i}") for i in range(50))]
    write(tmp_path / "pairs.tsv", rows)
    problem = problem_of(
        "train=pairs.tsv,inputs_column=[premise,hypothesis],targets_column=verdict,vocab_kind=bytes,held_out_test=none"
    )
    generate(problem, data_dir=tmp_path / "data", source_dir=tmp_path)
    data = open_problem("text_class_pairs", tmp_path / "data")
    assert (data.features["inputs"].parts, data.features["targets"].classes) == (2, ("n", "y"))
    found = [
        (*pair, label)
        for split in ("train", "dev")
        for pair, label in zip(data.split(split).samples("inputs"), data.split(split).texts("targets"), strict=True)
    ]
    assert sorted(found) == sorted((first, second, label) for first, label, second in rows[1:])
    assert len(data.split("dev")) == 5


def test_labels_that_are_ids_mean_the_classes_that_are_given(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", [("x", "1"), ("y", "0"), ("z", "good")])
    problem = problem_of(f"train=a.tsv,classes=[bad,good],{ALL_TRAIN}")
    assert read(problem, tmp_path, "train") == [("x", "good"), ("y", "bad"), ("z", "good")]
    problem = problem_of(f"train=a.tsv,{ALL_TRAIN}")
    assert read(problem, tmp_path, "train") == [("x", "1"), ("y", "0"), ("z", "good")]
    assert problem.classes == ("0", "1", "good")


def test_what_is_held_out_depends_on_the_texts_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", TEXTS)
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    write(tmp_path / "b.tsv", shuffled)
    found = [
        {split: read(problem_of(f"train={name}"), tmp_path, split) for split in SPLITS} for name in ("a.tsv", "b.tsv")
    ]
    assert [len(found[0][split]) for split in SPLITS] == [240, 30, 30]
    assert sorted(item for split in SPLITS for item in found[0][split]) == sorted(TEXTS)
    for split in SPLITS:
        assert sorted(found[0][split]) == sorted(found[1][split])


def test_copies_of_a_held_out_text_are_left_out_of_train_whatever_their_label(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", TEXTS + [(text, "good") for text, _ in TEXTS])
    problem = problem_of("train=a.tsv,held_out_test=none,held_out_dev=20")
    held_out = {text for text, _ in read(problem, tmp_path, "dev")}
    train = read(problem, tmp_path, "train")
    assert len(held_out) == 20
    assert not held_out & {text for text, _ in train}
    assert len(train) == 560


def test_no_class_loses_its_last_text(tmp_path: Path) -> None:
    """Each text a class of its own but for one: whatever is chosen stays."""
    rows = [(f"text {i}", f"class {i}" if i < 90 else "many") for i in range(1000)]
    write(tmp_path / "a.tsv", rows)
    problem = problem_of("train=a.tsv,held_out_test=none,held_out_dev=100")
    counts = Counter(label for _, label in read(problem, tmp_path, "train"))
    assert len(counts) == 91
    assert {label for _, label in read(problem, tmp_path, "dev")} == {"many"}


@pytest.mark.parametrize(
    ("rows", "overrides", "said", "help"),
    [
        ([("x", "7")], ",classes=[bad,good]", r"line 1 of .*train.tsv: '7' in column '1'", "ids, 0 to 1"),
        ([("x", "-1")], ",classes=[bad,good]", r"'-1' in column '1'", "bad, good"),
        ([("x", "1")], ",classes=[7,8]", r"'1' in column '1'", "7, 8"),
        ([("x", "a")] * 3, ",classes=[a,b]", r"no line of .*train.tsv has these classes: b", "the file has a"),
        ([("x", f"text {i}") for i in range(300)], "", "300 different labels in 300 lines", "targets_column"),
    ],
)
def test_faulty_labels_are_named_with_their_line(
    tmp_path: Path, rows: list[tuple[str, str]], overrides: str, said: str, help: str
) -> None:
    write(tmp_path / "train.tsv", rows)
    problem = problem_of(f"train=train.tsv{overrides}")
    with pytest.raises(InputError, match=said) as caught:
        generate(problem, data_dir=tmp_path / "data", source_dir=tmp_path)
    assert help in str(caught.value.help)


def test_a_class_that_train_lacks_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", TEXTS)
    write(tmp_path / "dev.tsv", [("x", "good"), ("y", "gud")])
    with pytest.raises(InputError, match=r"line 2 of .*dev.tsv: 'gud' in column '1' is none of the 3") as caught:
        read(problem_of("train=train.tsv,dev=dev.tsv"), tmp_path, "dev")
    assert caught.value.line == 2
    assert "did you mean 'good'" in str(caught.value.help)


def test_one_class_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", [(text, "good") for text, _ in TEXTS])
    with pytest.raises(InputError, match="the same class, 'good'"):
        generate(problem_of("train=a.tsv"), data_dir=tmp_path / "data", source_dir=tmp_path)


def test_lines_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", [*TEXTS, ("x", ""), ("", "good"), ("alone",)])
    problem = problem_of(f"train=a.tsv,{ALL_TRAIN}")
    assert read(problem, tmp_path, "train") == TEXTS
    assert problem.bad_lines.to_json() == [
        {"file": "a.tsv", "reason": "empty", "count": 2, "first_lines": [301, 302]},
        {"file": "a.tsv", "reason": "fewer than 2 columns", "count": 1, "first_lines": [303]},
    ]


def test_a_header_that_was_taken_for_a_text_is_pointed_out(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", [("sentence", "label"), *TEXTS])
    reporter = _Messages()
    problem_of("train=a.tsv").prepare(tmp_path, reporter)
    assert any("class 'label' has one text, the first line" in text for text in reporter.messages)
    assert any("classes of" in text and "bad (100), good (100), label (1)" in text for text in reporter.messages)
    reporter = _Messages()
    problem_of("train=a.tsv,inputs_column=sentence,targets_column=label").prepare(tmp_path, reporter)
    assert not any("first line" in text for text in reporter.messages)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("", "train is not set"),
        ("train=b.tsv", "there is no file"),
        ("train=a.tsv,targets_column=labl,inputs_column=text", "no column 'text'"),
        ("train=a.tsv,targets_column=labl", "no column 'text'"),
        ("train=a.tsv,inputs_column=[0,2]", "no line of .* has 3 columns"),
        ("train=a.txt", "cannot tell the format"),
        ("train=a.tsv,targets_column=5", "no line of .* has 6 columns separated by tabs"),
    ],
)
def test_a_wrong_place_is_named(tmp_path: Path, overrides: str, said: str) -> None:
    write(tmp_path / "a.tsv", TEXTS)
    write(tmp_path / "a.txt", TEXTS)
    with pytest.raises(InputError, match=said):
        problem_of(overrides).prepare(tmp_path, SilentReporter())


@pytest.mark.parametrize(
    "overrides", ["classes=one", "inputs_column=[]", "inputs_column=[a,b,c,d,e]", "held_out_dev=0", "label_column=a"]
)
def test_impossible_options_are_refused_at_once(overrides: str) -> None:
    with pytest.raises(SettingsError):
        TextClassOptions().override(overrides)
