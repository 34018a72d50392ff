"""The user's own pairs: paths, formats, what is held out, and every way to get them wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t2tdeploy.errors import InputError, SettingsError
from t2tdeploy.problems import pairs
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.pairs import PairsOptions, read_pair_file
from t2tdeploy.problems.problem import get_problem
from t2tdeploy.progress import SilentReporter

Pair = tuple[str, str]
SPLITS = ("train", "dev", "test")
PAIRS = [(f"sentence {i}", f"Satz {i}") for i in range(200)]


def write(path: Path, pairs: list[Pair]) -> None:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))


def read(folder: Path, overrides: str, split: str, name: str = "translate_pairs") -> list[Pair]:
    problem = get_problem(name)(PairsOptions().override(overrides))
    found = problem.generate_samples(split, folder, SilentReporter())
    return [(sample["inputs"], sample["targets"]) for sample in found]


def test_given_files_are_read_as_they_are(tmp_path: Path) -> None:
    for number, split in enumerate(SPLITS):
        write(tmp_path / f"{split}.tsv", PAIRS[number * 10 : number * 10 + 10])
    overrides = "train=train.tsv,dev=dev.tsv,test=test.tsv"
    assert [read(tmp_path, overrides, split) for split in SPLITS] == [PAIRS[:10], PAIRS[10:20], PAIRS[20:30]]


def test_two_text_files_and_their_reverse(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("".join(f"{source}\n" for source, _ in PAIRS))
    (tmp_path / "a.de").write_text("".join(f"{target}\n" for _, target in PAIRS))
    overrides = "train=[a.en,a.de],held_out_dev=none,held_out_test=none"
    assert read(tmp_path, overrides, "train") == PAIRS
    swapped = [(target, source) for source, target in PAIRS]
    assert read(tmp_path, overrides, "train", "translate_pairs_rev") == swapped


def test_an_absolute_path_does_not_need_the_source_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", PAIRS)
    assert (
        len(read(tmp_path / "elsewhere", f"train={tmp_path}/a.tsv,held_out_dev=none,held_out_test=none", "train"))
        == 200
    )


def test_held_out_splits_are_disjoint_complete_and_at_most_a_tenth(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", PAIRS)
    found = {split: read(tmp_path, "train=a.tsv", split) for split in SPLITS}
    assert {split: len(pairs) for split, pairs in found.items()} == {"train": 160, "dev": 20, "test": 20}
    assert sorted(pair for pairs in found.values() for pair in pairs) == sorted(PAIRS)
    assert len(read(tmp_path, "train=a.tsv,held_out_dev=5", "dev")) == 5
    assert len(read(tmp_path, "train=a.tsv,held_out_test=none", "train")) == 180
    assert read(tmp_path, "train=a.tsv,held_out_test=none", "test") == []


def test_held_out_pairs_do_not_depend_on_the_order_of_the_lines(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", PAIRS)
    write(tmp_path / "b.tsv", random.Random(0).sample(PAIRS, len(PAIRS)))
    assert set(read(tmp_path, "train=a.tsv", "dev")) == set(read(tmp_path, "train=b.tsv", "dev"))


def test_only_what_is_not_given_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", PAIRS)
    write(tmp_path / "b.tsv", PAIRS[:3])
    overrides = "train=a.tsv,dev=b.tsv"
    assert [len(read(tmp_path, overrides, split)) for split in SPLITS] == [180, 3, 20]


def test_copies_of_held_out_pairs_leave_train_and_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", PAIRS + PAIRS)
    problem = get_problem("translate_pairs")(PairsOptions().override("train=a.tsv,held_out_test=none"))
    found = {split: list(problem.generate_samples(split, tmp_path, SilentReporter())) for split in ("dev", "train")}
    assert len(found["dev"]) == 40
    assert len(found["train"]) == 2 * 160
    assert not any(sample in found["train"] for sample in found["dev"])
    (entry,) = problem.bad_lines.to_json()
    assert (entry["reason"], entry["count"]) == ("copy of a held-out pair", 40)


def test_a_handful_of_pairs_all_stay_in_train(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", PAIRS[:9])
    assert [len(read(tmp_path, "train=a.tsv", split)) for split in SPLITS] == [9, 0, 0]


def test_bad_lines_of_train_are_counted_once_and_with_train(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("broken\n" + "".join(f"{s}\t{t}\n" for s, t in PAIRS))
    problem = get_problem("translate_pairs")(PairsOptions().override("train=a.tsv"))
    list(problem.generate_samples("dev", tmp_path, SilentReporter()))
    assert problem.bad_lines.count == 0
    list(problem.generate_samples("train", tmp_path, SilentReporter()))
    assert problem.bad_lines.count == 1


@pytest.mark.parametrize(
    ("overrides", "message", "help"),
    [
        ("", "train is not set", "train=pairs.tsv"),
        ("train=corpus.tvs", "there is no file .*corpus.tvs", "did you mean 'corpus.tsv'"),
        ("train=nowhere/corpus.tsv", "there is no folder .*nowhere", "--source-dir"),
        ("train=folder", "folder is a folder", None),
        ("train=[corpus.tsv,long.txt]", "has 200 lines but .* has 201", None),
        ("train=[corpus.tsv,long.txt],format=tsv", "train is 2 files, but format=tsv", "text is two files"),
        ("train=corpus.tsv,format=text", "train is 1 file, but format=text", "text is two files"),
        ("train=long.txt", "cannot tell the format of", "format=tsv"),
        ("train=corpus.tsv,inputs_column=en", "has no column 'en'; valid columns: sentence 0, Satz 0", None),
    ],
)
def test_bad_options_are_named(tmp_path: Path, overrides: str, message: str, help: str | None) -> None:
    write(tmp_path / "corpus.tsv", PAIRS)
    (tmp_path / "long.txt").write_text("line\n" * 201)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, overrides, "train")
    if help is not None:
        assert help in (error.value.help or "")


@pytest.mark.parametrize("overrides", ["train=[a,b,c]", "train=[]", "held_out_dev=0", "format=xls", "trian=a.tsv"])
def test_impossible_options_are_refused_at_once(overrides: str) -> None:
    with pytest.raises(SettingsError):
        PairsOptions().override(overrides)


def test_a_file_named_otherwise_is_read_in_the_format_that_is_said(tmp_path: Path) -> None:
    write(tmp_path / "corpus.data", PAIRS)
    overrides = "train=corpus.data,format=tsv,held_out_dev=none,held_out_test=none"
    assert read(tmp_path, overrides, "train") == PAIRS


def test_datagen_reads_train_once_for_the_hold_out_and_once_per_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.tsv", PAIRS)
    opened: list[Path] = []

    def counting(path: Path, *arguments: Any) -> Iterator[dict[str, str]]:
        opened.append(path)
        return read_pair_file(path, *arguments)

    monkeypatch.setattr(pairs, "read_pair_file", counting)
    options = PairsOptions().override("train=a.tsv,vocab_size=300")
    generate(get_problem("translate_pairs")(options), data_dir=tmp_path / "data", source_dir=tmp_path)
    assert len(opened) == 4  # hold-out, scan, vocabulary, shards


def test_datagen_chooses_the_hold_out_anew_for_other_files(tmp_path: Path) -> None:
    problem = get_problem("translate_pairs")(PairsOptions().override("train=a.tsv,vocab_kind=bytes"))
    for pairs_now in (PAIRS, PAIRS[:50]):
        write(tmp_path / "a.tsv", pairs_now)
        record = generate(problem, data_dir=tmp_path / "data", source_dir=tmp_path)
        assert sum(split.examples for split in record.splits.values()) == len(pairs_now)


def test_datagen_takes_the_pairs_to_a_dataset(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", PAIRS)
    options = PairsOptions().override("train=a.tsv,vocab_kind=bytes")
    generate(get_problem("translate_pairs")(options), data_dir=tmp_path / "data", source_dir=tmp_path)
    data = open_problem("translate_pairs", tmp_path / "data")
    texts = [
        pair
        for split in SPLITS
        for pair in zip(data.split(split).texts("inputs"), data.split(split).texts("targets"), strict=True)
    ]
    assert sorted(texts) == sorted(PAIRS)
