"""The user's own table: the schema as it looks and as it is told, what is held out, and every way to get it wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from t2tdeploy.errors import InputError, SettingsError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.rows import Rows
from t2tdeploy.problems.tabular import samples_of
from t2tdeploy.problems.tabular_csv import TabularCsv, TabularCsvOptions
from t2tdeploy.progress import SilentReporter

HEADER = "id,age,city,zip,note,bought"
ROWS = [
    f"{i},{'' if i % 9 == 0 else 20 + i * 7 % 50},{('Bonn', 'Köln', 'Ulm')[i % 3]},{i % 5:03d},note {i},"
    f"{'yes' if i % 4 == 0 else 'no'}"
    for i in range(1, 201)
]


class Messages(SilentReporter):
    """Keeps what was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str, **_: Any) -> None:
        self.texts.append(text)


def write(path: Path, rows: Sequence[str], header: str = HEADER) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


def problem_of(overrides: str) -> TabularCsv:
    return TabularCsv(TabularCsvOptions.create({}).override(overrides))


def prepared(folder: Path, overrides: str, reporter: Messages | None = None) -> TabularCsv:
    problem = problem_of(overrides)
    problem.prepared = problem.prepare(folder, reporter or Messages())
    return problem


def samples(problem: TabularCsv, folder: Path, split: str) -> list[dict[str, Any]]:
    return list(problem.generate_samples(split, folder, SilentReporter()))


def features(folder: Path, overrides: str) -> dict[str, FeatureSpec]:
    return prepared(folder, overrides).features({})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write(tmp_path / "a.csv", ROWS)
    return tmp_path


def test_the_schema_is_inferred_and_told(table: Path) -> None:
    reporter = Messages()
    problem = prepared(table, "train=a.csv,target=bought", reporter)
    assert reporter.texts == [
        "a.csv: 200 rows; 'bought' is predicted, a class",
        "  id: ignored, it numbers the rows",
        "  age: numeric, from 20 to 69, 22 missing",
        "  city: vocabulary, 3 values",
        "  zip: vocabulary, 5 values",  # it is written 001
        "  note: ignored, 200 of 200 texts are different: most rows have one of their own",
        "tabular_csv: 20 of 200 rows are held out of train for dev",
        "tabular_csv: 20 of 200 rows are held out of train for test",
    ]
    found = problem.features({})
    assert list(found) == ["age_number", "city_value", "zip_value", "targets"]
    assert found["targets"].classes == ("no", "yes")


def test_the_schema_can_be_told(table: Path) -> None:
    told = "columns=[zip:vocabulary,age:bucketized:18|40,zip*age:crossed:50,city:ignored,id:numeric]"
    found = features(table, f"train=a.csv,target=bought,{told}")
    assert list(found) == ["zip_value", "age_bucket", "zip_age_cross", "id_number", "targets"]
    column = found["zip_value"].column
    assert column is not None
    assert sorted(column["values"]) == ["000", "001", "002", "003", "004"]  # as they are written
    crossed = features(table, "train=a.csv,target=bought,columns=[city*zip:crossed:15]")["city_zip_cross"].column
    assert crossed is not None  # of columns as they look
    assert [key["reads"] for key in crossed["keys"]] == ["city", "zip"]
    assert list(features(table, "train=a.csv,target=bought,infer=false,columns=[age:numeric]")) == [
        "age_number",
        "targets",
    ]


def test_a_number_is_regressed_unless_told_otherwise(table: Path) -> None:
    targets = features(table, "train=a.csv,target=age,faulty_rows=skip")["targets"]
    assert targets.modality is Modality.REAL
    classes = features(table, "train=a.csv,target=age,faulty_rows=skip,task=classify")["targets"].classes
    assert classes == tuple(sorted(classes, key=int))
    assert features(table, "train=a.csv,target=zip")["targets"].classes == ("000", "001", "002", "003", "004")


def test_splits_are_disjoint_complete_and_stratified(table: Path) -> None:
    problem = prepared(table, "train=a.csv,target=bought,columns=[id:numeric]")
    found = {split: samples(problem, table, split) for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in found.items()} == {"train": 160, "dev": 20, "test": 20}
    assert {split: sum(row["targets"] == "yes" for row in rows) for split, rows in found.items()} == {
        "train": 40, "dev": 5, "test": 5
    }  # fmt: skip
    assert len({row["id_number"] for rows in found.values() for row in rows}) == 200


def test_the_order_of_rows_does_not_matter(table: Path) -> None:
    write(table / "b.csv", random.Random(0).sample(ROWS, len(ROWS)))
    dev = [
        {
            row["id_number"]
            for row in samples(prepared(table, f"train={name}.csv,target=bought,columns=[id:numeric]"), table, "dev")
        }
        for name in "ab"
    ]
    assert {round(value, 4) for value in dev[0]} == {round(value, 4) for value in dev[1]}


def test_what_equal_rows_keep_in_train_is_said(tmp_path: Path) -> None:
    rows = [*(f"{i},small" for i in range(50)), *["1,large", "2,large"] * 75]
    write(tmp_path / "a.csv", rows, header="x,size")
    messages = Messages()
    problem = prepared(tmp_path, "train=a.csv,target=size,columns=[x:numeric]", messages)
    why = "20 were wanted, but equal rows stay together and every class keeps some in train; none of class large"
    assert messages.texts[-2:] == [
        f"tabular_csv: 5 of 200 rows are held out of train for {split}; {why}" for split in ("dev", "test")
    ]
    assert {split: len(samples(problem, tmp_path, split)) for split in ("train", "dev", "test")} == {
        "train": 190, "dev": 5, "test": 5
    }  # fmt: skip


def test_a_table_of_a_few_kinds_of_rows_has_a_dev_nevertheless(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [f"{i % 12},{i % 2}" for i in range(600)], header="x,y")
    messages = Messages()
    problem = prepared(tmp_path, "train=a.csv,target=y,columns=[x:numeric],held_out_test=none", messages)
    assert messages.texts[-1].endswith(
        "100 of 600 rows are held out of train for dev; 60 were wanted, but equal rows stay together"
    )
    assert len(samples(problem, tmp_path, "dev")) == 100


def test_a_number_whose_rows_are_too_often_equal_has_no_dev(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", ["1,0.5", "2,1.5"] * 100, header="x,y")
    messages = Messages()
    problem = prepared(tmp_path, "train=a.csv,target=y,columns=[x:numeric],held_out_test=none", messages)
    assert messages.texts[-1].endswith(
        "0 of 200 rows are held out of train for dev; 20 were wanted, but equal rows "
        "stay together and every class keeps some in train"
    )
    assert samples(problem, tmp_path, "dev") == []
    assert len(samples(problem, tmp_path, "train")) == 200


@pytest.mark.parametrize(
    ("name", "target"), [("logits", "bought"), ("probabilities", "bought"), ("values", "age"), ("", "bought")]
)
def test_a_name_that_no_graph_can_have_is_refused_before_training(tmp_path: Path, name: str, target: str) -> None:
    columns = {name: [1.5, 2.5] * 50, "bought": ["yes", "no"] * 50, "age": [*map(float, range(50))] * 2}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    words = "has the name of an output of the graph" if name else "a column has no name"
    with pytest.raises(InputError, match=words) as caught:
        prepared(tmp_path, f"train=a.parquet,target={target}")
    assert "name" in (caught.value.help or "")


def test_names_that_only_another_graph_cannot_have_are_taken(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", ["1,0,yes", "2,1,no"] * 50, header="values,x,bought")
    write(tmp_path / "b.csv", [f"1,2,0,{i}.5" for i in range(50)] * 2, header="logits,probabilities,x,price")
    assert "values_number" in features(tmp_path, "train=a.csv,target=bought,columns=[values:numeric]")
    assert {"logits_number", "probabilities_number"} <= {
        *features(tmp_path, "train=b.csv,target=price,columns=[logits:numeric,probabilities:numeric]")
    }


def test_dev_and_test_may_be_files_of_their_own(table: Path) -> None:
    write(table / "b.csv", ["1,30,Berlin,001,x,yes", "2,,,,,no"])
    problem = prepared(table, "train=a.csv,dev=b.csv,target=bought,held_out_test=none")
    assert len(samples(problem, table, "train")) == 200
    assert samples(problem, table, "test") == []
    berlin, nothing = samples(problem, table, "dev")
    assert (berlin["city_value"], nothing["city_value"]) == (4, 0)
    assert nothing["age_number"] == 0


def test_rows_without_a_target_are_an_error_or_counted(table: Path) -> None:
    write(table / "b.csv", [*ROWS, "201,30,Bonn,001,x,", "202,31,Bonn,001,x"])
    with pytest.raises(InputError, match=r"b\.csv, row 201, column 'bought': is missing"):
        samples(problem_of("train=b.csv,target=bought"), table, "train")
    problem = prepared(table, "train=b.csv,target=bought,faulty_rows=skip")
    assert len(samples(problem, table, "train")) == 160
    assert problem.bad_lines.to_json() == [
        {"file": "b.csv", "reason": "5 values instead of 6", "count": 1, "first_lines": [202]},
        {"file": "b.csv", "reason": "no class in column 'bought'", "count": 1, "first_lines": [201]},
    ]


@pytest.mark.parametrize(
    ("overrides", "message", "help"),
    [
        ("target=bought", "needs its data: train is not set", "set train=table.csv"),
        ("train=b.csv", "there is no file", "did you mean 'a.csv'?"),
        ("train=a.csv", "which column of a.csv is to be predicted? Its columns: id, age, city", "set target=NAME"),
        ("train=a.csv,target=bougt", "a.csv has no column 'bougt'", "did you mean 'bought'?"),
        ("train=a.csv,target=bought,columns=[agee:numeric]", "a.csv has no column 'agee'", "did you mean 'age'?"),
        ("train=a.csv,target=bought,columns=[agee:ignored]", "a.csv has no column 'agee'", "did you mean 'age'?"),
        (
            "train=a.csv,target=bought,columns=[city:numeric]",
            "a.csv, row 1, column 'city': 'Köln' is not a number",
            None,
        ),
        ("train=a.csv,target=bought,columns=[bought:vocabulary]", "column 'bought' is what is predicted", None),
        (
            "train=a.csv,target=bought,columns=[age:log,age:hashed]",
            "'age' is declared as number and as text",
            "numeric",
        ),
        ("train=a.csv,target=bought,columns=[city*age:crossed]", "crosses 'age', but no column of that", "bucketized"),
        ("train=a.csv,target=bought,infer=false", "a.csv has no column to predict 'bought' from", "columns="),
        ("train=a.csv,target=city,task=regress", "row 1, column 'city': 'Köln' is not a number", None),
        ("train=a.csv,target=bought,separator=;", "a.csv has one column", "say format=csv"),
        ("train=a.csv,target=bought,dev=dev.csv", "dev.csv, row 2, column 'bought': 'maybe' is no class", None),
        ("train=a.csv,target=bought,dev=short.csv", "short.csv has no column 'age'", None),
    ],
)
def test_faults(table: Path, overrides: str, message: str, help: str | None) -> None:
    write(table / "dev.csv", ["1,2,Ulm,001,x,yes", "1,2,Ulm,001,x,maybe"])
    write(table / "short.csv", ["Ulm,1,yes"], "city,zip,bought")
    problem = problem_of(overrides)
    with pytest.raises(InputError) as caught:
        [samples(problem, table, split) for split in ("train", "dev")]
    assert message in str(caught.value)
    assert (help or "") in (caught.value.help or "")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (
            [*map(str, range(1000, 1059)), "unknown"],
            "row 60, column 'price': 'unknown' is not a number, as 59 of its 60 values are$",
        ),
        ([f"{i},5" for i in range(60)], "row 1, column 'price': '0,5' is a number with a comma, as are 60 of its 60"),
        (
            [f"{i} EUR" for i in range(60)],
            "column 'price': 60 different texts in 60 rows.*; row 1: '0 EUR' is not a number$",
        ),
    ],
)
def test_quantities_written_wrong_are_not_taken_for_classes(tmp_path: Path, written: list[str], problem: str) -> None:
    write(tmp_path / "a.csv", [f"{i % 7};{price}" for i, price in enumerate(written)], "area;price")
    overrides = "train=a.csv,target=price,separator=;"
    with pytest.raises(InputError, match=f"^a.csv, {problem}") as caught:
        prepared(tmp_path, overrides)
    assert "task=regress (with faulty_rows=skip" in (caught.value.help or "")
    named = features(tmp_path, f"{overrides},task=classify,held_out_dev=none,held_out_test=none")["targets"]
    assert len(named.classes) == 60


def test_values_are_the_same_written_in_the_file_and_sent(tmp_path: Path) -> None:
    rows = [f"{i % 3 == 0},{i % 4}.0,{i % 5}.0,{i % 3 == 0}" for i in range(60)]
    write(tmp_path / "a.csv", rows, "member,rooms,owner,bought")
    problem = prepared(tmp_path, "train=a.csv,target=bought,columns=[rooms:vocabulary,owner:hashed:50]")
    found = problem.features({})
    assert found["targets"].classes == ("False", "True")  # as they are written
    sent = Rows.of([{"member": True, "rooms": 2, "owner": 3.0, "bought": "True"}], "sent")
    kept = Rows.of([{"member": "True", "rooms": "2.0", "owner": "3.0", "bought": "True"}], "kept")
    (one,), (other,) = (samples_of(rows, found, "bought") for rows in (sent, kept))
    assert one == other
    column = found["rooms_value"].column
    assert column is not None
    assert sorted(column["values"]) == ["0", "1", "2", "3"]


def test_options_have_ranges() -> None:
    with pytest.raises(SettingsError, match=r"task = 'clasify'.*did you mean 'classify'"):
        problem_of("task=clasify")


def test_data_are_made_and_opened(table: Path) -> None:
    problem = problem_of("train=a.csv,target=bought")
    record = generate(problem, data_dir=table / "data", source_dir=table)
    data = open_problem("tabular_csv", table / "data")
    assert {split: size.examples for split, size in record.splits.items()} == {"train": 160, "dev": 20, "test": 20}
    assert data.features == problem.features({})


@pytest.mark.parametrize("every", [1, 3, 39])
def test_numbers_with_a_comma_are_no_vocabulary_unless_it_is_said(tmp_path: Path, every: int) -> None:
    areas = [f"-{i},{i % 9}5" if i % every == 0 else ("NA" if i % 7 == 0 else str(i / 4)) for i in range(40)]
    areas[1] = "unknown"  # nearly all will do
    write(tmp_path / "a.csv", [f"{area};{i % 2}" for i, area in enumerate(areas)], "area;target")
    with pytest.raises(InputError, match=r"a.csv, row 1, column 'area': '-0,05' is a number with a comma") as caught:
        prepared(tmp_path, "train=a.csv,separator=;")
    assert "write decimals with a point" in (caught.value.help or "")
    assert "columns=[area:vocabulary]" in (caught.value.help or "")
    prepared(tmp_path, "train=a.csv,separator=;,columns=[area:vocabulary]")


@pytest.mark.parametrize("kinds", [3, 200])
def test_a_word_among_numbers_is_an_error_unless_it_is_said(tmp_path: Path, kinds: int) -> None:
    """Otherwise the column would be left out, or the order of its numbers be lost."""
    areas = ["NA" if i % 7 == 0 else str(i % kinds / 4) for i in range(200)]
    areas[31] = "unknown"
    write(tmp_path / "a.csv", [f"{area},{i % 2}" for i, area in enumerate(areas)], "area,target")
    with pytest.raises(
        InputError, match=r"a.csv, row 32, column 'area': 'unknown' is not a number, as 170 of"
    ) as caught:
        prepared(tmp_path, "train=a.csv")
    assert "leave it empty if it is not known" in (caught.value.help or "")
    prepared(tmp_path, "train=a.csv,columns=[area:vocabulary]")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("1,5", "'1,5' is a number with a comma, as are 1 of its 200"), ("open", "'open' is not a number")],
)
def test_a_target_of_numbers_is_no_class_for_one_that_is_written_wrong(tmp_path: Path, wrong: str, words: str) -> None:
    prices = [str(i % 30 + 0.5) for i in range(200)]
    prices[8] = wrong
    write(tmp_path / "a.csv", [f"{i % 3};{price}" for i, price in enumerate(prices)], "size;target")
    with pytest.raises(InputError, match=rf"row 9, column 'target': {words}") as caught:
        prepared(tmp_path, "train=a.csv,separator=;")
    assert "say task=classify" in (caught.value.help or "")
    prepared(tmp_path, "train=a.csv,separator=;,task=classify")


def test_a_word_among_grades_is_a_class(tmp_path: Path) -> None:
    grades = [str(i % 5) for i in range(200)]
    grades[8] = "absent"
    write(tmp_path / "a.csv", [f"{i % 3};{grade}" for i, grade in enumerate(grades)], "size;target")
    targets = features(tmp_path, "train=a.csv,separator=;")["targets"]
    assert targets.modality is Modality.CLASS_LABEL
    assert {*targets.classes} == {*grades}


def test_long_numbers_and_codes_stay_texts(tmp_path: Path) -> None:
    """Floats would not tell the last digits of such ids apart; a word among them is one more."""
    rows = [f"{2**53 + i % 3},0{i % 4},{i % 2}" for i in range(60)]
    rows[7] = f"none of these,K1A,{7 % 2}"
    write(tmp_path / "a.csv", rows, "id,zip,target")
    reporter = Messages()
    prepared(tmp_path, "train=a.csv", reporter)
    assert {"  id: vocabulary, 4 values", "  zip: vocabulary, 5 values"} <= {*reporter.texts}


def test_texts_with_commas_among_words_are_a_vocabulary(tmp_path: Path) -> None:
    notes = [("1,5", "red, blue", "Ulm", "3")[i % 4] for i in range(40)]
    write(tmp_path / "a.csv", [f"{note};{i % 2}" for i, note in enumerate(notes)], "note;target")
    reporter = Messages()
    prepared(tmp_path, "train=a.csv,separator=;", reporter)
    assert "  note: vocabulary, 4 values" in reporter.texts
