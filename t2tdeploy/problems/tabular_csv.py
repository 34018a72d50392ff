"""The user's own table, by path: CSV, TSV or Parquet. The schema is inferred, shown, and can be overridden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from t2tdeploy.columns.values import Array, as_number, as_text
from t2tdeploy.errors import InputError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.classes import shown_classes
from t2tdeploy.problems.held_out import hold_out, others, row_hashes, splits_to_hold_out
from t2tdeploy.problems.pairs import existing_file
from t2tdeploy.problems.problem import DataOptions, Problem
from t2tdeploy.problems.rows import Rows
from t2tdeploy.problems.table_schema import find_columns, find_target, looks_like_quantity
from t2tdeploy.problems.tables import read_table, table_format
from t2tdeploy.problems.tabular import TARGETS, fit_features, samples_of
from t2tdeploy.problems.text import BadLines
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem
from t2tdeploy.tokenizer import Tokenizer


class TabularCsvOptions(DataOptions):
    """Where the rows are and what their columns mean. Relative paths are looked up in `--source-dir`."""

    train: str | None = Field(None, min_length=1, description="a file of rows; .gz, .zst")
    dev: str | None = Field(None, min_length=1, description="like train; none: held out of train")
    test: str | None = Field(None, min_length=1, description="like train; none: held out of train")
    target: str | None = Field(
        None, min_length=1, description="the column to predict; none: the one called target, label or class"
    )
    task: Literal["auto", "classify", "regress"] = Field(
        "auto", description="auto: classify a target of text or of at most 20 whole numbers, regress any other"
    )
    columns: tuple[str, ...] = Field(
        (), description="NAME:KIND, KIND being numeric, log, bucketized, vocabulary, hashed, crossed or ignored"
    )
    infer: bool = Field(True, description="use the columns that `columns` does not name as they look, or ignore them")
    format: Literal["auto", "csv", "tsv", "parquet"] = Field("auto", description="auto: by the file's suffix")
    separator: str | None = Field(None, min_length=1, max_length=1, description="of a text file, e.g. ;")
    header: bool = Field(True, description="whether the first line names the columns; if not they are 0, 1, 2, …")
    faulty_rows: Literal["error", "skip"] = Field(
        "error", description="what a row without a usable target means: an error, or that it is left out and counted"
    )
    held_out_dev: int | None = Field(
        1000, ge=1, description="rows held out of train where dev is not given, at most a tenth; none: no dev"
    )
    held_out_test: int | None = Field(
        1000, ge=1, description="rows held out of train where test is not given, at most a tenth; none: no test"
    )


@dataclass(frozen=True)
class Prepared:
    """What was found of a table.

    Args:
        target: the column to predict.
        features: with the fitted columns.
        held_out: split -> indices of its rows among the usable ones of train.
    """

    target: str
    features: dict[str, FeatureSpec]
    held_out: dict[str, Array]


@register_problem
class TabularCsv(Problem):
    """Your own table from CSV, TSV or Parquet: classes or numbers out of its columns.

    Where dev or test is not given, the rows with the smallest hashes are held out of train, of every class its share:
    the same ones whatever the order of the rows, and equal rows together, or in train if they are more than two shares.
    """

    task = "classify"
    decides_task = True
    default_model = "wide_and_deep"  # which does both
    options_class = TabularCsvOptions
    options: TabularCsvOptions
    prepared: Prepared | None

    def __init__(self, options: TabularCsvOptions) -> None:
        super().__init__(options)
        self.paths = {"train": options.train, "dev": options.dev, "test": options.test}

    def prepare(self, source_dir: Path, reporter: Reporter) -> Prepared:
        """Reads the schema off train, chooses what is held out, and fits the columns on the rest."""
        if self.paths["train"] is None:
            raise InputError(f"problem '{self.name}' needs its data: train is not set", help="set train=table.csv")
        rows, unusable = self._read("train", source_dir, BadLines())  # generate_samples reports what is left out
        options = self.options
        target = find_target(rows, options.target)
        regress = looks_like_quantity(rows, target) if options.task == "auto" else options.task == "regress"
        rows = self._usable(rows, target, regress, BadLines())
        reporter.message(f"{rows.place}: {len(rows)} rows; '{target}' is predicted, a {_kind_of(regress)}")
        columns = find_columns(rows, target, options.columns, unusable, infer=options.infer, reporter=reporter)
        held_out = self._hold_out(rows, target, regress, reporter)
        train = rows.take(others(len(rows), held_out))
        return Prepared(target, fit_features(columns, train, target, regress=regress), held_out)

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        del tokenizers  # there is no text
        assert self.prepared is not None, "columns are fitted by prepare"
        return self.prepared.features

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        if self.prepared is None:
            self.prepared = self.prepare(source_dir, reporter)
        found = self.prepared
        own = self.paths[split] is not None
        if not own and split not in found.held_out:
            return
        rows, _ = self._read(split if own else "train", source_dir, self.bad_lines if own else BadLines())
        regress = found.features[TARGETS].modality is Modality.REAL
        rows = self._usable(rows, found.target, regress, self.bad_lines if own else BadLines())
        if split == "train":
            rows = rows.take(others(len(rows), found.held_out))
        elif not own:
            rows = rows.take(found.held_out[split])
        yield from samples_of(rows, found.features, found.target)

    def _read(self, split: str, source_dir: Path, bad_lines: BadLines) -> tuple[Rows, dict[str, str]]:
        options, name = self.options, self.paths[split]
        assert name is not None
        path = existing_file(source_dir / Path(name).expanduser(), split)
        file_format = table_format(path) if options.format == "auto" else options.format
        return read_table(path, file_format, bad_lines, separator=options.separator, header=options.header)

    def _usable(self, rows: Rows, target: str, regress: bool, bad_lines: BadLines) -> Rows:
        """The rows whose target is there, if faulty ones are to be skipped."""
        if self.options.faulty_rows == "error":
            return rows
        values = np.asarray(rows.columns[target])
        is_usable = _is_number if regress else lambda value: as_text(value) != ""
        usable = np.array([is_usable(value) for value in values], bool)
        for row in np.flatnonzero(~usable):
            bad_lines.add(rows.place, rows.number(int(row)), f"no {_kind_of(regress)} in column '{target}'")
        return rows.take(np.flatnonzero(usable))

    def _hold_out(self, rows: Rows, target: str, regress: bool, reporter: Reporter) -> dict[str, Array]:
        options = self.options
        wanted = splits_to_hold_out(self.paths, {"dev": options.held_out_dev, "test": options.held_out_test})
        if not wanted:
            return {}
        classes = ["" if regress else as_text(value) for value in rows.columns[target]]
        counts = {split: min(count, len(rows) // 10) for split, count in wanted.items()}
        found = hold_out(row_hashes(rows), classes, counts)
        for split, indices in found.items():
            why = _why_others(classes, indices, counts[split]) if len(indices) != counts[split] else ""
            reporter.message(f"{self.name}: {len(indices)} of {len(rows)} rows are held out of train for {split}{why}")
        return {split: indices for split, indices in found.items() if indices.size}


def _why_others(classes: Sequence[str], indices: Array, wanted: int) -> str:
    if len(indices) > wanted:
        return f"; {wanted} were wanted, but equal rows stay together"
    absent = sorted({*classes} - {classes[index] for index in indices} - {""})  # a number has the class ""
    return (
        f"; {wanted} were wanted, but equal rows stay together and every class keeps some in train"
        f"{f'; none of class {shown_classes(absent)}' if absent else ''}"
    )


def _kind_of(regress: bool) -> str:
    return "number" if regress else "class"


def _is_number(value: Any) -> bool:
    try:
        return bool(np.isfinite(as_number(value)))
    except ValueError:
        return False
