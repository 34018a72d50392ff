"""Examples in memory as the data of a problem: what an input function gave, in the place of a data directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from keyword import iskeyword
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from t2tdeploy import __version__
from t2tdeploy.columns.declare import Declaration, numeric, vocabulary
from t2tdeploy.columns.fit import fit_columns, raw_of, require_graph_names, resolve
from t2tdeploy.columns.fitted import column_of, raw_columns
from t2tdeploy.columns.values import Array, RawColumn, raw_array
from t2tdeploy.errors import InputError, nearest
from t2tdeploy.features import IMAGE_CHANNELS, FeatureSpec, Modality
from t2tdeploy.problems.batching import Batch, Indices, Lengths
from t2tdeploy.problems.classes import in_class_order, is_no_class
from t2tdeploy.problems.dataset import Dataset, ProblemData, ProblemRecord, SplitRecord
from t2tdeploy.problems.input_functions import Table
from t2tdeploy.problems.problem import ESTIMATOR, DataOptions, Problem, Sample, TaskName
from t2tdeploy.progress import Reporter
from t2tdeploy.tokenizer import Tokenizer

TARGETS = "targets"

LabelKind = Literal["auto", "classify", "multi_label", "regress"]
_NUMBERS = "iufb"
_MOST_VALUES = 20  # different texts of a column may always be


class InMemoryDataset(Dataset):
    """A split whose batches are rows of arrays.

    Args:
        arrays: feature -> [examples, ...], as `features.Modality` says; texts there are none.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = dict(arrays)
        self.lengths: dict[str, Lengths] = {}

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batch(self, indices: Indices) -> Batch:
        return {name: values[indices] for name, values in self.arrays.items()}

    def batches(self, size: int) -> list[Batch]:
        """All examples in their order, `size` at a time."""
        return [
            {name: values[start : start + size] for name, values in self.arrays.items()}
            for start in range(0, len(self), size)
        ]


class _Classes(Problem):
    name = ESTIMATOR
    task: ClassVar[TaskName] = "classify"

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        raise NotImplementedError("the record has them")

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[Sample]:
        raise NotImplementedError("the examples are in memory")


class _Numbers(_Classes):
    name = ESTIMATOR
    task: ClassVar[TaskName] = "regress"


class InMemoryData(ProblemData):
    """Splits in memory.

    Args:
        features: the declarations that `splits` follow, "targets" among them.
        identity: what must be the same where a run goes on, beside the features.
    """

    def __init__(
        self, features: Mapping[str, FeatureSpec], splits: Mapping[str, InMemoryDataset], identity: str = ""
    ) -> None:
        declared = {name: json.loads(json.dumps(asdict(spec))) for name, spec in features.items()}
        digest = hashlib.sha256(json.dumps([declared, identity], sort_keys=True).encode()).hexdigest()
        record = ProblemRecord(
            problem=ESTIMATOR,
            options={},
            features=declared,
            vocabularies={},
            tokenizer_hashes={},
            splits={name: SplitRecord(examples=len(split), shards=1) for name, split in splits.items()},
            hash=digest,
            t2tdeploy_version=__version__,
        )
        problem = _Numbers if features[TARGETS].modality is Modality.REAL else _Classes
        super().__init__(problem(DataOptions()), record, Path(), {})
        self._splits = dict(splits)

    def split(self, name: str) -> Dataset:
        return self._splits[name]


def fit_features(
    table: Table,
    *,
    columns: Sequence[Declaration] | None,
    labels: LabelKind,
    classes: Sequence[str] | int | None,
) -> dict[str, FeatureSpec]:
    """The features of training examples, "targets" among them.

    Args:
        columns: what features are made of; None: every column as it looks. Numbers are standardised, texts are values
            of a vocabulary, bytes [examples, height, width, channels] are images; a feature has its column's name.
        labels: what labels are. "auto": floats are quantities, integers, truth values and texts are classes.
        classes: their names, by id; their number, if they are 0, 1, 2, …; None: those that occur.

    Raises:
        InputError: a column is missing, of a type that cannot be used, or without a name that can be exported; there
            are no labels, or nothing to tell apart.
    """
    if columns is None:
        found = _inferred(table)
    else:
        resolved = resolve(columns)
        raw = {name: _raw(table, column) for name, column in raw_of(resolved).items() if name in table.columns}
        found = fit_columns(columns, raw)
    if not found:
        raise InputError("there is no column to predict from", help="declare one with columns=[…]")
    target = _fit_labels(table, labels, classes)
    require_graph_names(found, target)
    return {**found, TARGETS: target}


def arrays_of(
    table: Table, features: Mapping[str, FeatureSpec], *, labels: bool, others: bool = False
) -> dict[str, Array]:
    """The examples as the features say, with or without "targets".

    Args:
        others: whether columns that no feature reads are left out, or an error.

    Raises:
        InputError: a column or the labels are missing, a column is unknown, or a value does not do, with its index.
    """
    given = {name: spec for name, spec in features.items() if name != TARGETS}
    plain = {name: spec for name, spec in given.items() if spec.column is None}
    raw = raw_columns(given)
    _require_columns(table, [*raw, *plain], others)
    values = {name: _raw(table, column) for name, column in raw.items()}
    found: dict[str, Array] = {}
    for name, spec in given.items():
        column = column_of(spec)
        found[name] = _pixels(table, spec) if column is None else column.apply(values)
    return {**found, TARGETS: label_array(table, features[TARGETS])} if labels else found


def missing_numbers(table: Table, features: Mapping[str, FeatureSpec]) -> dict[str, int]:
    """Column -> how many of its numbers are missing, where some are; they count as what their column says."""
    raw = {name: column for name, column in raw_columns(dict(features)).items() if column.kind == "number"}
    counts = {name: int((~np.isfinite(_raw(table, column))).sum()) for name, column in raw.items()}
    return {name: count for name, count in counts.items() if count}


def label_array(table: Table, spec: FeatureSpec) -> Array:
    """The labels as they are in a batch.

    Raises:
        InputError: there are none, or one does not do.
    """
    values = _labels(table)
    if spec.modality is Modality.REAL:
        numbers = raw_array(RawColumn("labels", "number", spec.shape), values, _fail("labels"))
        for index in np.flatnonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)).tolist():
            raise _fail("labels")(index, f"{numbers[index].tolist()!r:.60}; every example needs a number to learn from")
        return numbers
    if spec.modality is Modality.MULTI_LABEL:
        return _zeros_and_ones(values, len(spec.classes))
    texts = raw_array(RawColumn("labels", "text"), values, _fail("labels"))
    ids = {name: number for number, name in enumerate(spec.classes)}
    found = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts.tolist()):
        if text not in ids:
            raise _no_class(row, text, spec.classes)
        found[row] = ids[text]
    return found


def _inferred(table: Table) -> dict[str, FeatureSpec]:
    found: dict[str, FeatureSpec] = {}
    for name, values in table.columns.items():
        if values.dtype == np.uint8 and values.ndim == 4:
            if name == TARGETS:
                raise InputError(f"a column of images cannot be called '{TARGETS}'", help="give it another name")
            if (channels := values.shape[3]) not in IMAGE_CHANNELS:
                raise InputError(
                    f"column '{name}' is an array of uint8{list(values.shape[1:])}: images have 1 or 3 channels, "
                    f"not {channels}",
                    help="give other channels as numbers: .astype('float32')",
                )
            found[name] = FeatureSpec(name, Modality.IMAGE, shape=values.shape[1:])
            continue
        column = _declaration(name, values)
        raw = {one.name: _raw(table, one) for one in column.raw}
        ((derived, spec),) = fit_columns([column], raw).items()
        own = name.isidentifier() and not iskeyword(name) and name != TARGETS and not name.endswith("_mask")
        key = name if own else derived
        while key in found:
            key += "_2"
        found[key] = replace(spec, name=key)
    return found


def _declaration(name: str, values: Array) -> Declaration:
    if values.dtype.kind in _NUMBERS:
        return numeric(name, shape=values.shape[1:])
    if values.dtype == object and values.ndim == 1:
        given = [value for value in values.tolist() if value is not None]
        if given and not any(isinstance(value, str) for value in given):
            return numeric(name)
        if (kinds := len({*map(str, given)})) > max(_MOST_VALUES, len(values) // 2):
            raise InputError(
                f"column '{name}' has {kinds} different texts in {len(values)} examples, too many to be categories",
                help=f"leave it out, or declare it with columns=[hashed('{name}'), …]; for sentences, write a problem",
            )
        return vocabulary(name)
    raise InputError(
        f"column '{name}' is an array of {values.dtype}{list(values.shape[1:]) or ''}, which no column can hold",
        help="turn it into numbers or texts, or leave it out",
    )


def _fit_labels(table: Table, kind: LabelKind, classes: Sequence[str] | int | None) -> FeatureSpec:
    values = _labels(table)
    if kind == "auto":
        kind = _kind_of_labels(values, classes)
    if kind == "regress":
        column = numeric(TARGETS, shape=values.shape[1:])
        numbers = raw_array(RawColumn(TARGETS, "number", values.shape[1:]), values, _fail("labels"))
        return replace(column.fit({TARGETS: numbers}).feature(TARGETS), name=TARGETS)
    given = range(classes) if isinstance(classes, int) else () if classes is None else classes
    names = tuple(map(str, given))
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"classes: '{twice}' is there twice")
    if kind == "multi_label":
        if values.ndim != 2:
            raise InputError(f"labels of shape {list(values.shape)}, where a 0 or 1 per example and class is expected")
        names = names or tuple(map(str, range(values.shape[1])))
        return FeatureSpec(TARGETS, Modality.MULTI_LABEL, classes=names)
    if values.ndim != 1:
        raise InputError(
            f"labels of shape {list(values.shape)}, where the class of each example is expected",
            help="of one-hot vectors give labels.argmax(1); for several classes per example say labels='multi_label'",
        )
    found = {text for text in raw_array(RawColumn("labels", "text"), values, _fail("labels")).tolist() if text}
    names = names or in_class_order(found)
    if len(names) < 2 or len(found) < 2:
        raise InputError(
            f"all {len(values)} examples have the same class, '{next(iter(found), '')}'",
            help="a model learns from examples of at least two classes",
        )
    return FeatureSpec(TARGETS, Modality.CLASS_LABEL, classes=names)


def _kind_of_labels(values: Array, classes: Sequence[str] | int | None) -> LabelKind:
    if classes is not None:
        return "classify" if values.ndim == 1 else "multi_label"
    if values.dtype == object:  # columns that can have missing values come as objects
        given = [value for value in values.ravel().tolist() if value is not None]
        return "regress" if given and all(isinstance(value, float) for value in given) else "classify"
    return "regress" if values.dtype.kind == "f" else "classify"


def _labels(table: Table) -> Array:
    values = table.labels
    if values is None:
        raise InputError(
            "the input function gave no labels", help="return (features, labels), or name their column with target="
        )
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _raw(table: Table, column: RawColumn) -> Array:
    values = table.columns[column.name]
    if values.shape[1:] != column.shape:
        raise InputError(
            f"column '{column.name}' has values of shape {list(values.shape[1:])} instead of {list(column.shape)}",
            help="declare it with its shape: numeric(name, shape=…)" if column.kind == "number" else None,
        )
    return raw_array(column, values, _fail(f"column '{column.name}'"))


def _pixels(table: Table, spec: FeatureSpec) -> Array:
    values = table.columns[spec.name]
    if values.dtype != np.uint8 or values.shape[1:] != spec.shape:
        raise InputError(
            f"column '{spec.name}' is an array of {values.dtype} {list(values.shape[1:])} instead of images, uint8 "
            f"{list(spec.shape)}"
        )
    return values


def _require_columns(table: Table, wanted: Sequence[str], others: bool) -> None:
    for name in wanted:
        if name not in table.columns:
            close = nearest(name, table.columns)
            raise InputError(
                f"there is no column '{name}'; the input function gave {', '.join(table.columns)}",
                help=f"is it '{close}'?" if close else None,
            )
    if (unknown := [name for name in table.columns if name not in wanted]) and not others:
        raise InputError(
            f"the model knows no column '{unknown[0]}'; those it was trained with: {', '.join(wanted)}",
            help="leave it out, or choose the columns with columns=[…]",
        )


def _zeros_and_ones(values: Array, classes: int) -> Array:
    if values.ndim != 2 or values.shape[1] != classes:
        raise InputError(f"labels of shape {list(values.shape)}, where [examples, {classes}] is expected")
    numbers = raw_array(RawColumn("labels", "number", (classes,)), values, _fail("labels"))
    for row in np.flatnonzero(~np.isin(numbers, (0, 1)).all(axis=1)).tolist():
        raise _fail("labels")(row, f"{values[row].tolist()!r:.60}, where every class has 0 or 1")
    return numbers


def _no_class(row: int, text: str, classes: tuple[str, ...]) -> InputError:
    if not text:
        return _fail("labels")(row, "missing; every example needs a class to learn from")
    return _fail("labels")(row, f"'{text:.60}' {is_no_class(classes, text)}")


def _fail(where: str) -> Callable[[int, str], InputError]:
    """From the index of an example and what is wrong to an error that names both."""

    def fail(row: int, problem: str) -> InputError:
        return InputError(f"{where}, example {row} (the first is 0): {problem}")

    return fail
