"""Fitting columns: what is learned of training rows, or cannot be, and what a missing value becomes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from t2tdeploy.columns.declare import (
    LARGEST_EMBEDDING,
    Declaration,
    bucketized,
    crossed,
    embedding_width,
    hashed,
    numeric,
    vocabulary,
)
from t2tdeploy.columns.fit import fit_columns
from t2tdeploy.columns.fitted import FARTHEST, CategoricalColumn, NumericColumn, column_of
from t2tdeploy.columns.values import Array, RawColumn, raw_array
from t2tdeploy.errors import InputError
from t2tdeploy.features import FeatureSpec, Modality
from tests.columns.drawn import declarations, refuse, tables, training_tables

NUMBERS = np.array([1, 2, 3, 4, np.nan, np.inf], np.float32)


def texts(*values: str) -> Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def only(declaration: Declaration, **raw: Any) -> Any:
    (spec,) = fit_columns([declaration], raw).values()
    return column_of(spec)


@settings(max_examples=60)
@given(declarations(), training_tables(), tables())
def test_features_are_what_their_declaration_says(
    columns: list[Declaration], training: dict[str, Array], raw: dict[str, Array]
) -> None:
    for name, spec in fit_columns(columns, training).items():
        assert name == spec.name
        assert FeatureSpec.from_json(json.loads(json.dumps(asdict(spec)))) == spec
        column = column_of(spec)
        assert column is not None
        found, rows = column.apply(raw), len(raw["number"])
        assert found.shape == (rows, *spec.shape)
        if spec.modality is Modality.REAL:
            assert found.dtype == np.float32
            assert (np.abs(found) <= FARTHEST).all()
        else:
            assert found.dtype == np.int64
            assert ((found >= 0) & (found < spec.vocab_size)).all()


@settings(max_examples=50)
@given(declarations(), training_tables())
def test_an_id_is_unseen_if_no_training_row_has_it(columns: list[Declaration], training: dict[str, Array]) -> None:
    for spec in fit_columns(columns, training).values():
        column = column_of(spec)
        if isinstance(column, CategoricalColumn):
            assert not set(column.unseen) & set(column.apply(training).tolist())
            assert all(0 <= found < spec.vocab_size for found in column.unseen)


@settings(max_examples=50)
@given(training_tables())
def test_numbers_are_standardised(training: dict[str, Array]) -> None:
    values = np.clip(training["number"], -1e4, 1e4)  # beyond, float32 shows
    column = only(numeric("number"), number=values)
    found = column.apply({"number": values})[np.isfinite(values)].astype(np.float64)
    assert abs(found.mean()) < 1e-3
    assert abs(found.std() - 1) < 1e-3 or np.ptp(values[np.isfinite(values)]) < 1e-3


def test_missing_numbers_become_the_mean_and_large_ones_stay_finite() -> None:
    column: NumericColumn = only(numeric("n"), n=NUMBERS)
    assert column.mean == (2.5,)
    hostile = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 2.5], np.float32)
    np.testing.assert_array_equal(column.apply({"n": hostile}), [0, 0, 0, FARTHEST, -FARTHEST, 0])


def test_a_column_of_one_number_is_zero() -> None:
    column = only(numeric("n"), n=np.array([5, 5], np.float32))
    assert column.apply({"n": np.array([5, 6], np.float32)}).tolist() == [0, 1]


def test_buckets_hold_as_many_rows_each() -> None:
    values = np.arange(100, dtype=np.float32)
    column = only(bucketized("n", buckets=4), n=values)
    assert np.bincount(column.apply({"n": values})).tolist() == [0, 25, 25, 25, 25]
    assert column.unseen == (0,)


def test_boundaries_belong_to_the_bucket_above() -> None:
    column = only(bucketized("n", boundaries=(0, 10)), n=NUMBERS)
    values = np.array([-1, 0, 9, 10, np.inf, -np.inf, np.nan], np.float32)
    assert column.apply({"n": values}).tolist() == [1, 2, 2, 3, 0, 0, 0]
    assert column.unseen == ()


@pytest.mark.parametrize("missing", [None, "nan", np.inf, -np.inf, 1e39, "-1e39", 10**400])
def test_numbers_that_are_infinite_in_float32_are_missing_in_every_column_of_numbers(missing: Any) -> None:
    values = raw_array(RawColumn("n", "number"), [1, 2, missing], refuse)
    bucket, number = only(bucketized("n", buckets=2), n=values), only(numeric("n"), n=values)
    assert bucket.apply({"n": values}).tolist() == [1, 2, 0]
    assert bucket.unseen == ()
    assert number.apply({"n": values})[-1] == 0
    assert number.mean == (1.5,)


def test_a_vocabulary_is_ordered_by_frequency_and_knows_missing_and_other_values() -> None:
    column = only(vocabulary("t", min_count=2, other_buckets=1), t=texts("b", "a", "a", "b", "a", "rare", ""))
    assert column.values == ("a", "b")
    assert column.apply({"t": texts("a", "b", "", "rare", "new")}).tolist() == [1, 2, 0, 3, 3]
    assert column.unseen == ()
    assert only(vocabulary("t"), t=texts("a")).unseen == (0, 2)
    given = only(vocabulary("t", values=(3, 1.0, " a ")), t=texts("1"))
    assert given.values == ("3", "1", "a")
    with pytest.raises(InputError, match=r"column 't': values: .* is a list, not a text"):
        vocabulary("t", values=([1],))


def test_crosses_tell_combinations_apart_until_they_are_hashed() -> None:
    raw = {"a": texts("x", "y", "x", "y"), "b": texts("u", "u", "v", "v")}
    exact = only(crossed(vocabulary("a"), vocabulary("b"), buckets=16), **raw)
    assert not exact.is_hashed
    assert len(set(exact.apply(raw).tolist())) == 4
    mixed = only(crossed(vocabulary("a"), vocabulary("b"), buckets=15), **raw)
    assert mixed.is_hashed
    assert mixed.size == 15


def test_hashes_spread() -> None:
    column = only(hashed("t", buckets=100), t=texts("a"))
    counts = np.bincount(column.apply({"t": texts(*(f"value {i}" for i in range(10_000)))}), minlength=101)
    assert counts[0] == 0
    assert counts[1:].min() > 50
    pairs = crossed(hashed("a", buckets=500), hashed("b", buckets=500), buckets=100)
    raw = {"a": texts(*(str(i // 100) for i in range(10_000))), "b": texts(*(str(i % 100) for i in range(10_000)))}
    assert np.bincount(only(pairs, **raw).apply(raw), minlength=100).min() > 50


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([numeric("agee")], "there is no column 'agee'; valid columns: age, city, empty, blank"),
        ([numeric("age"), vocabulary("age")], "column 'age' is declared as number and as text"),
        ([numeric("empty")], "column 'empty' has no number in the training rows"),
        ([bucketized("empty")], "column 'empty' has no number in the training rows"),
        ([vocabulary("blank")], "column 'blank' has no value that 1 training rows share"),
        ([vocabulary("city", min_count=3)], "column 'city' has no value that 3 training rows share"),
        ([crossed("city", "age")], "'city*age' crosses 'age', but no column of that name makes ids"),
    ],
)
def test_rows_of_which_nothing_can_be_learned(columns: list[Declaration], message: str) -> None:
    raw = {
        "age": np.array([1, 2], np.float32),
        "city": texts("a", "b"),
        "empty": np.array([np.nan, np.inf], np.float32),
        "blank": texts("", ""),
    }
    with pytest.raises(InputError) as caught:
        fit_columns([vocabulary("city"), *columns] if "cross" in message else columns, raw)
    assert str(caught.value).startswith(message)


def test_declarations_that_cannot_be() -> None:
    for declare, message in (
        (lambda: bucketized("a", boundaries=(2, 1)), "column 'a': the boundaries \\[2, 1\\] do not ascend"),
        (lambda: bucketized("a", buckets=1), "buckets = 1, but it must be at least 2"),
        (lambda: hashed("a", buckets=0), "buckets = 0, but it must be at least 1"),
        (lambda: vocabulary("a", min_count=0), "min_count = 0"),
        (lambda: hashed("a", embedding=-1), "embedding = -1"),
        (lambda: crossed("a"), "column 'a' crosses 1 columns"),
    ):
        with pytest.raises(InputError, match=message):
            declare()


def test_features_have_names_that_identify() -> None:
    columns = [numeric("sepal length (cm)"), numeric("Sepal_Length_cm"), hashed("type"), bucketized("年"), numeric("7")]
    raw = dict.fromkeys(("sepal length (cm)", "Sepal_Length_cm", "年", "7"), NUMBERS) | {"type": texts("a")}
    assert list(fit_columns(columns, raw)) == [
        "sepal_length_cm_number", "sepal_length_cm_number_2", "type_hash", "column_bucket", "column_7_number"
    ]  # fmt: skip


def test_few_ids_are_an_indicator_and_many_an_embedding() -> None:
    assert only(hashed("t", buckets=10), t=texts("a")).embedding is None
    assert only(hashed("t", buckets=1000), t=texts("a")).embedding == embedding_width(1001)
    assert embedding_width(10**6) == LARGEST_EMBEDDING
    assert only(hashed("t", buckets=1000, embedding=0), t=texts("a")).embedding is None
    assert only(hashed("t", buckets=10, embedding=3), t=texts("a")).embedding == 3
