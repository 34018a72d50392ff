"""Latencies in buckets whose width grows with the value: any number of them in little memory, and sums of histograms.

The buckets are fixed, as in DDSketch (Masson, Rim and Lee 2019): bucket i holds what is above GROWTH^(i-1) and at most
GROWTH^i, in units of UNIT_SECONDS. So histograms of several processes or rounds can be added, and a percentile is at
most RELATIVE_ERROR away from that of the values themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

RELATIVE_ERROR = 0.01
GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
UNIT_SECONDS = 1e-6
_LOG_GROWTH = math.log(GROWTH)


class Histogram:
    """Durations in seconds. What is shorter than UNIT_SECONDS counts as that."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.count = 0
        self.sum = 0.0
        self.max = 0.0

    def add(self, seconds: float) -> None:
        """One more value."""
        self.buckets[max(0, math.ceil(math.log(max(seconds, UNIT_SECONDS) / UNIT_SECONDS) / _LOG_GROWTH))] += 1
        self.count += 1
        self.sum += seconds
        self.max = max(self.max, seconds)

    def __iadd__(self, other: Histogram) -> Self:
        self.buckets += other.buckets
        self.count += other.count
        self.sum += other.sum
        self.max = max(self.max, other.max)
        return self

    @property
    def mean(self) -> float | None:
        """In seconds, exact; None: there is no value."""
        return self.sum / self.count if self.count else None

    def percentile(self, share: float) -> float | None:
        """A value, in seconds, that at least this share of all does not exceed (nearest rank); None: there is none.

        Args:
            share: 0.99 for p99. The largest value, 1.0, is exact.
        """
        if not self.count:
            return None
        if share >= 1:
            return self.max
        rank = math.ceil(share * self.count - 1e-9)  # 0.07 * 100 is a little more than 7
        return next(seconds for seen, seconds in self.steps() if seen >= rank)

    def steps(self) -> Iterator[tuple[int, float]]:
        """The distribution, from the smallest on: how many values do not exceed how many seconds."""
        seen = 0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            middle = UNIT_SECONDS * 2 * GROWTH**index / (GROWTH + 1)
            yield seen, min(middle, self.max)

    def summary(self) -> dict[str, Any]:
        """Mean, percentiles and maximum in milliseconds; None where there are too few values: p99 takes a hundred."""
        shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
        told = {name: share for name, share in shares.items() if self.count * (1 - share) > 1 - 1e-9}
        values = {
            "mean_ms": self.mean,
            **{name: self.percentile(share) if name in told else None for name, share in shares.items()},
            "max_ms": self.percentile(1.0),
        }
        return {name: None if value is None else round(value * 1000, 3) for name, value in values.items()}

    def record(self) -> dict[str, Any]:
        """For JSON; `from_record` reads it."""
        return {
            "relative_error": RELATIVE_ERROR,
            "unit_seconds": UNIT_SECONDS,
            "buckets": {str(index): self.buckets[index] for index in sorted(self.buckets)},
            "sum_seconds": self.sum,
            "max_seconds": self.max,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """What `record` gave."""
        found = cls()
        found.buckets = Counter({int(index): count for index, count in record["buckets"].items()})
        found.count = found.buckets.total()
        found.sum, found.max = record["sum_seconds"], record["max_seconds"]
        return found
