"""A histogram forgets the values and keeps their distribution."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.load_testing.histogram import RELATIVE_ERROR, UNIT_SECONDS, Histogram

DURATIONS = st.lists(st.floats(UNIT_SECONDS, 1000, allow_nan=False), min_size=1, max_size=300)


def of(values: list[float]) -> Histogram:
    found = Histogram()
    for value in values:
        found.add(value)
    return found


@given(DURATIONS, st.sampled_from([0.001, 0.25, 0.5, 0.9, 0.99, 0.999]))
def test_a_percentile_is_the_exact_one_within_the_error_of_a_bucket(values: list[float], share: float) -> None:
    exact = float(np.percentile(values, share * 100, method="inverted_cdf"))
    assert of(values).percentile(share) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001)


def test_percentiles_of_many_values_are_exact_within_the_error_of_a_bucket() -> None:
    values = np.random.default_rng(0).lognormal(-4, 2, 20_000)
    histogram = of(values.tolist())
    for share in (0.5, 0.9, 0.99, 0.999):
        exact = np.percentile(values, share * 100, method="inverted_cdf")
        assert histogram.percentile(share) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001)
    assert len(histogram.buckets) < 1200


@given(DURATIONS)
def test_the_largest_and_the_mean_are_exact(values: list[float]) -> None:
    histogram = of(values)
    assert histogram.percentile(1.0) == histogram.max == max(values)
    assert histogram.mean == pytest.approx(np.mean(values))


@given(DURATIONS, DURATIONS)
def test_a_sum_is_the_histogram_of_all_values(one: list[float], other: list[float]) -> None:
    added, whole = of(one), of(one + other)
    added += of(other)
    assert (added.buckets, added.count, added.max) == (whole.buckets, whole.count, whole.max)
    assert added.sum == pytest.approx(whole.sum)


@given(DURATIONS)
def test_a_record_has_everything(values: list[float]) -> None:
    histogram = of(values)
    restored = Histogram.from_record(json.loads(json.dumps(histogram.record())))
    assert vars(restored) == vars(histogram)


def test_what_is_too_short_to_tell_counts_as_the_shortest() -> None:
    histogram = of([0.0, -0.001, UNIT_SECONDS / 3])
    assert histogram.count == 3
    assert set(histogram.buckets) == {0}


def test_percentiles_are_told_where_there_are_enough_values_for_them() -> None:
    def told(count: int) -> set[str]:
        return {name for name, value in of([0.5] * count).summary().items() if value is not None}

    assert told(0) == set()
    assert told(9) == {"mean_ms", "p50_ms", "max_ms"}
    assert told(99) == told(9) | {"p90_ms"}
    assert told(100) == told(99) | {"p99_ms"}
    assert told(1000) == told(100) | {"p999_ms"}
