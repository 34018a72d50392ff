"""Problems of rows: samples are what fitted columns make of raw values, and every fault names its row and column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from t2tdeploy.columns.declare import Declaration, bucketized, crossed, numeric, vocabulary
from t2tdeploy.columns.fitted import column_of, raw_columns
from t2tdeploy.errors import InputError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.problems.packaged_tables import Digits, Iris
from t2tdeploy.problems.problem import DataOptions
from t2tdeploy.problems.rows import Rows
from t2tdeploy.problems.stratified import StratifiedOptions
from t2tdeploy.problems.tabular import TabularProblem
from t2tdeploy.progress import Reporter, SilentReporter

TRAIN = [
    {"age": 22, "sex": "m", "survived": "no"},
    {"age": None, "sex": "f", "survived": "yes"},
    {"age": 40, "sex": "", "survived": "no"},
    {"age": 40.0, "survived": "yes"},
]
OTHERS = [{"age": 99, "sex": "x", "survived": "no"}, {"survived": "no"}]


class Survival(TabularProblem):
    """As a user writes one."""

    target = "survived"
    table: ClassVar[Mapping[str, list[dict[str, Any]]]] = {"train": TRAIN, "dev": OTHERS}

    def columns(self, rows: Rows) -> list[Declaration]:
        return [numeric("age"), vocabulary("sex"), crossed("sex", bucketized("age", boundaries=(30,)))]

    def rows(self, split: str, source_dir: Path, reporter: Reporter) -> Rows:
        return Rows.of(self.table.get(split, []), split)


def of(table: Mapping[str, list[dict[str, Any]]], **attributes: Any) -> TabularProblem:
    cls = type("Survival", (Survival,), {"table": table, **attributes})
    return cls(DataOptions.create({}))


def samples(problem: TabularProblem, split: str = "train") -> list[dict[str, Any]]:
    return list(problem.generate_samples(split, Path(), SilentReporter()))


def test_samples_are_what_the_columns_make_of_the_rows() -> None:
    problem = of(Survival.table)
    found = samples(problem)
    assert [sample["targets"] for sample in found] == ["no", "yes", "no", "yes"]
    assert [sample["age_number"] for sample in found] == pytest.approx([-1.4142135, 0, 0.7071067, 0.7071067])
    assert [sample["sex_value"] for sample in found] == [2, 1, 0, 0]
    features = problem.features({})
    assert features["targets"].classes == ("no", "yes")
    assert list(raw_columns(features)) == ["age", "sex"]
    assert samples(problem, "test") == []


def test_a_row_of_another_split_may_lack_columns_and_have_new_values() -> None:
    known, empty = samples(of(Survival.table), "dev")
    assert known["sex_value"] == 3
    assert known["age_number"] > 7
    assert (empty["sex_value"], empty["age_number"]) == (0, 0)


def test_a_quantity_is_recorded_with_its_mean_and_deviation() -> None:
    table = {"train": [{"age": age, "sex": "f", "survived": 10.0 * age} for age in (1, 2, 3)]}
    problem = of(table, regress=True)
    assert problem.task == "regress"
    assert [sample["targets"] for sample in samples(problem)] == [10, 20, 30]
    spec = problem.features({})["targets"]
    column = column_of(spec)
    assert spec.modality is Modality.REAL
    assert column is not None
    assert column.apply({"survived": np.array([20], np.float32)}) == [0]


@pytest.mark.parametrize(
    ("changes", "attributes", "message"),
    [
        ({"age": "old"}, {}, "train, row 1, column 'age': 'old' is not a number"),
        ({"sex": ["f"]}, {}, "train, row 1, column 'sex': ['f'] is a list, not a text"),
        ({"survived": None}, {}, "train, row 1, column 'survived': is missing; every row needs a class to learn from"),
        (
            {"survived": "perhaps"},
            {"classes": ("no", "yes")},
            "train, row 1, column 'survived': 'perhaps' is no class; classes: no, yes",
        ),
        (
            {"survived": "yess"},
            {"classes": ("no", "yes")},
            "train, row 1, column 'survived': 'yess' is no class (did you mean 'yes'?); classes: no, yes",
        ),
        ({}, {"target": "survival"}, "train has no column 'survival'; its columns: age, sex, survived"),
        ({}, {"target": "sex"}, "column 'sex' is what is predicted; it cannot also be what it is predicted from"),
        ({}, {"regress": True}, "train, row 1, column 'survived': 'no' is not a number"),
        ({}, {"columns": lambda self, rows: []}, "train has no column to predict 'survived' from"),
    ],
)
def test_faults_name_row_and_column(changes: dict[str, Any], attributes: dict[str, Any], message: str) -> None:
    first, *rest = TRAIN
    with pytest.raises(InputError) as caught:
        samples(of({"train": [{**first, **changes}, *rest]}, **attributes))
    assert str(caught.value) == message


def test_a_quantity_cannot_be_missing() -> None:
    table = {"train": [{"age": 1, "sex": "f", "survived": value} for value in (1, None)]}
    with pytest.raises(InputError, match="row 2, column 'survived': is nan; every row needs a number to learn from"):
        samples(of(table, regress=True))


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> ProblemData:
    data_dir = tmp_path_factory.mktemp("iris")
    generate(Iris(StratifiedOptions.create({})), data_dir=data_dir, source_dir=data_dir)
    return open_problem("iris", data_dir)


def test_the_fit_is_recorded_with_the_data(iris: ProblemData) -> None:
    made = Iris(StratifiedOptions.create({}))
    made.prepared = made.prepare(Path(), SilentReporter())
    assert iris.features == made.features({})
    batch = iris.split("train").batch(np.arange(len(iris.split("train"))))
    for name, spec in iris.features.items():
        if name != "targets":
            assert batch[name].mean() == pytest.approx(0, abs=1e-6)
            assert batch[name].std() == pytest.approx(1, abs=1e-6)
            assert spec == FeatureSpec.from_json(iris.record.features[name])


def test_every_split_has_the_classes_in_the_same_proportions(iris: ProblemData) -> None:
    counts = {split: iris.split(split).id_counts("targets", 3).tolist() for split in ("train", "dev", "test")}
    assert counts == {"train": [36, 36, 36], "dev": [4, 4, 4], "test": [10, 10, 10]}


def test_digits_are_vectors() -> None:
    digits = Digits(StratifiedOptions.create({}))
    train, test = samples(digits), samples(digits, "test")
    assert (len(train), len(test)) == (1293, 360)
    assert digits.features({})["pixels_number"].shape == (64,)
    assert train[0]["pixels_number"].shape == (64,)
    assert {sample["targets"] for sample in test} == set("0123456789")
