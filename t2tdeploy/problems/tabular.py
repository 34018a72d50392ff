"""Problems whose examples are rows of a table: a feature per declared column, and one column to predict.

Adding one takes a class and a decorator:

    @register_problem
    class Survival(TabularProblem):
        target = "survived"

        def columns(self, rows):
            return [numeric("age"), vocabulary("sex"), crossed("sex", bucketized("age"), buckets=100)]

        def rows(self, split, source_dir, reporter):
            return Rows.of(my_dicts(split), place=f"{split}")

Columns are fitted on the rows of train, once. The fit is recorded with the features, from where the model's graph gets
it: a client then sends the raw columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from t2tdeploy.columns.declare import Declaration, numeric
from t2tdeploy.columns.fit import fit_columns, raw_of, require_graph_names, resolve
from t2tdeploy.columns.fitted import column_of, raw_columns
from t2tdeploy.columns.values import RawColumn
from t2tdeploy.errors import InputError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.classes import in_class_order, is_no_class
from t2tdeploy.problems.problem import Problem, TaskName
from t2tdeploy.problems.rows import Rows
from t2tdeploy.progress import Reporter
from t2tdeploy.tokenizer import Tokenizer

TARGETS = "targets"

_ROWS_PER_CHUNK = 8192


class TabularProblem(Problem):
    """A problem whose samples are rows of a table.

    Attributes:
        target: the column that is predicted.
        classes: its values, by id; empty: those of the training rows, numbers in their order before names.
        regress: whether the target is a quantity instead of a class.
    """

    task: ClassVar[TaskName] = "classify"
    default_model = "dnn_classifier"
    target: ClassVar[str] = ""
    classes: ClassVar[tuple[str, ...]] = ()
    regress: ClassVar[bool] = False
    prepared: dict[str, FeatureSpec] | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.regress:
            cls.task, cls.default_model = "regress", "dnn_regressor"

    @abstractmethod
    def rows(self, split: str, source_dir: Path, reporter: Reporter) -> Rows:
        """The rows of a split, the target among their columns; none if there is no such split."""

    @abstractmethod
    def columns(self, rows: Rows) -> list[Declaration]:
        """What the features are made of.

        Args:
            rows: of train.
        """

    def prepare(self, source_dir: Path, reporter: Reporter) -> Any:
        """Fits the columns."""
        rows = self.rows("train", source_dir, reporter)
        return fit_features(self.columns(rows), rows, self.target, regress=self.regress, classes=self.classes)

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        del tokenizers  # there is no text
        assert self.prepared is not None, "columns are fitted by prepare"
        return self.prepared

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        if self.prepared is None:
            self.prepared = self.prepare(source_dir, reporter)
        yield from samples_of(self.rows(split, source_dir, reporter), self.features({}), self.target)


def fit_features(
    declarations: Sequence[Declaration], rows: Rows, target: str, *, regress: bool, classes: tuple[str, ...] = ()
) -> dict[str, FeatureSpec]:
    """The features of a table, fitted on its training rows, "targets" among them.

    Raises:
        InputError: a column is missing or cannot be fitted or exported, the target is among the columns, or a value
            does not do.
    """
    columns = resolve(declarations)
    if any(raw.name == target for column in columns for raw in column.raw):
        raise InputError(f"column '{target}' is what is predicted; it cannot also be what it is predicted from")
    if not columns:
        raise InputError(f"{rows.place} has no column to predict '{target}' from", help="declare one with columns=[…]")
    raw = {name: rows.raw(column) for name, column in raw_of(columns).items()}
    found, predicted = fit_columns(columns, raw), _fit_target(rows, target, regress, classes)
    require_graph_names(found, predicted)
    return {**found, TARGETS: predicted}


def _fit_target(rows: Rows, target: str, regress: bool, classes: tuple[str, ...]) -> FeatureSpec:
    values = rows.raw(RawColumn(target, "number" if regress else "text"))
    if regress:
        spec = numeric(target).fit({target: values}).feature(TARGETS)
        return replace(spec, name=TARGETS)
    found = classes or in_class_order({value for value in values.tolist() if value})
    return FeatureSpec(TARGETS, Modality.CLASS_LABEL, classes=found)


def samples_of(rows: Rows, features: Mapping[str, FeatureSpec], target: str) -> Iterator[dict[str, Any]]:
    """The features of rows.

    Raises:
        InputError: a column is missing, or a value does not do (with its row).
    """
    if not len(rows):
        return
    raw = {name: rows.raw(column) for name, column in raw_columns(dict(features)).items()}
    labels = labels_of(rows, features[TARGETS], target)
    columns = {name: column_of(spec) for name, spec in features.items() if name != TARGETS}
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        part = slice(start, start + _ROWS_PER_CHUNK)
        chunk = {name: values[part] for name, values in raw.items()}
        found: dict[str, Iterable[Any]] = {}
        for name, column in columns.items():
            assert column is not None
            values = column.apply(chunk)
            found[name] = values.tolist() if values.ndim == 1 else list(values)
        found[TARGETS] = labels[part]
        for row in zip(*found.values(), strict=True):
            yield dict(zip(found, row, strict=True))


def labels_of(rows: Rows, spec: FeatureSpec, target: str) -> list[Any]:
    """The target of each row: the name of a class, or a number.

    Raises:
        InputError: one is missing, or is no class (with its row).
    """
    regress = spec.modality is Modality.REAL
    values: list[Any] = rows.raw(RawColumn(target, "number" if regress else "text")).tolist()
    classes = set(spec.classes)
    for row, value in enumerate(values):
        if regress and not np.isfinite(value):
            raise rows.fault(target)(row, f"is {value}; every row needs a number to learn from")
        if not regress and value not in classes:
            raise _no_class(rows, target, row, value, spec.classes)
    return values


def _no_class(rows: Rows, target: str, row: int, value: str, classes: tuple[str, ...]) -> InputError:
    if not value:
        return rows.fault(target)(row, "is missing; every row needs a class to learn from")
    return rows.fault(target)(row, f"'{value:.80}' {is_no_class(classes, value)}")
