"""Columns as a problem declares them, and their fit on training rows.

    numeric("age")                                       standardised
    numeric("income", scale="log")                       standardised after sign(x) log(1 + |x|)
    bucketized("age", boundaries=(18, 65))               or buckets=10: as many rows in each
    vocabulary("city")                                   its values in the training rows
    hashed("zip", buckets=1000)
    crossed("sex", "city", buckets=500)                  columns, or names of columns declared beside it

`fit.fit_columns` makes features of them. The words are those of Estimator's feature columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from t2tdeploy.columns.fitted import (
    BucketizedColumn,
    CategoricalColumn,
    CrossedColumn,
    FittedColumn,
    HashedColumn,
    NumericColumn,
    VocabularyColumn,
)
from t2tdeploy.columns.hashing import hash_texts
from t2tdeploy.columns.values import Array, Raw, RawColumn, as_category
from t2tdeploy.errors import InputError, nearest

INDICATOR_IDS = 16
"""A category of more ids than this enters models as an embedding unless told otherwise, others as an indicator."""

LARGEST_EMBEDDING = 64


def embedding_width(ids: int) -> int:
    """Width of an embedding of so many ids: 1.6 ids^0.56, the rule of fastai's tabular models, at most 64."""
    return min(LARGEST_EMBEDDING, int(1.6 * ids**0.56 + 0.5))


@dataclass(frozen=True)
class Declaration(ABC):
    """A column that has not seen rows.

    Args:
        name: of the raw column.
    """

    name: str

    label: ClassVar[str]
    """What is added to the column's name to name the feature."""

    @property
    @abstractmethod
    def raw(self) -> tuple[RawColumn, ...]:
        """The raw columns that it reads."""

    @abstractmethod
    def fit(self, raw: Raw) -> FittedColumn:
        """The column as it is with these training rows.

        Raises:
            InputError: nothing can be learned of them.
        """


@dataclass(frozen=True)
class Categorical(Declaration):
    """A column that makes an id of a value.

    Args:
        embedding: width of the vectors that models learn for its ids; 0: an indicator; None: an indicator of up to
            `INDICATOR_IDS` ids, otherwise `embedding_width`.
    """

    embedding: int | None = None

    def __post_init__(self) -> None:
        _require(self, "embedding", self.embedding, at_least=0)

    def width(self, ids: int) -> int | None:
        """`CategoricalColumn.embedding` of so many ids."""
        if self.embedding is None:
            return None if ids <= INDICATOR_IDS else embedding_width(ids)
        return self.embedding or None

    @abstractmethod
    def fit(self, raw: Raw) -> CategoricalColumn: ...


@dataclass(frozen=True)
class Numeric(Declaration):
    """A number, or an array of numbers of one shape."""

    scale: Literal["linear", "log"] = "linear"
    shape: tuple[int, ...] = ()
    label = "number"

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return (RawColumn(self.name, "number", self.shape),)

    def fit(self, raw: Raw) -> NumericColumn:
        values = raw[self.name].reshape(len(raw[self.name]), -1).astype(np.float64)  # float32 loses in long sums
        values[~np.isfinite(values)] = np.nan
        if np.isnan(values).all():
            raise InputError(f"column '{self.name}' has no number in the training rows", help="leave the column out")
        if self.scale == "log":
            values = np.sign(values) * np.log1p(np.abs(values))
        mean, deviation = _moments(values)
        return NumericColumn(reads=self.name, shape=self.shape, scale=self.scale, mean=mean, deviation=deviation)


def _moments(values: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column in float32, as they are computed with; those without numbers: 0, 1."""
    counts = np.maximum((~np.isnan(values)).sum(axis=0), 1)
    mean = np.nansum(values, axis=0) / counts
    deviation = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / counts).astype(np.float32)
    deviation[deviation == 0] = 1
    return tuple(mean.astype(np.float32).tolist()), tuple(deviation.tolist())


@dataclass(frozen=True)
class Bucketized(Categorical):
    """The bucket of a number, between given boundaries or quantiles of the training rows."""

    boundaries: tuple[float, ...] = ()
    buckets: int = 10
    label = "bucket"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "buckets", self.buckets, at_least=2)
        if not all(low < high for low, high in pairwise(self.boundaries)):
            raise InputError(f"column '{self.name}': the boundaries {list(self.boundaries)} do not ascend")

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return (RawColumn(self.name, "number"),)

    def fit(self, raw: Raw) -> BucketizedColumn:
        values = raw[self.name].astype(np.float64)
        present = values[np.isfinite(values)]
        boundaries = self.boundaries
        if not boundaries:
            if not present.size:
                raise InputError(f"column '{self.name}' has no number in the training rows", help="leave it out")
            inner = np.arange(1, self.buckets) / self.buckets
            found = np.unique(np.quantile(present, inner, method="higher"))
            boundaries = tuple(found[found > present.min()].tolist()) or (present.max().item(),)
        size = len(boundaries) + 2
        return BucketizedColumn(
            reads=self.name,
            boundaries=boundaries,
            missing_seen=present.size < values.size,
            embedding=self.width(size),
        )


@dataclass(frozen=True)
class Vocabulary(Categorical):
    """One of the values that training rows have.

    Args:
        values: the vocabulary, texts or numbers; empty: that of the training rows, the most frequent first.
        min_count: of a value in the training rows; rarer ones count as not in the vocabulary.
        max_values: how many values at most.
        other_buckets: ids for values that are not in the vocabulary.
    """

    values: tuple[str, ...] = ()
    min_count: int = 1
    max_values: int | None = None
    other_buckets: int = 1
    label = "value"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            object.__setattr__(self, "values", tuple(dict.fromkeys(map(as_category, self.values))))
        except ValueError as error:
            raise InputError(f"column '{self.name}': values: {error}") from None
        for option in ("min_count", "max_values", "other_buckets"):
            _require(self, option, getattr(self, option), at_least=1)

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return (RawColumn(self.name, "text", canonical=True),)

    def fit(self, raw: Raw) -> VocabularyColumn:
        counts = Counter(raw[self.name].tolist())
        missing = counts.pop("", 0)
        values = self.values
        if not values:
            ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            values = tuple(value for value, count in ordered if count >= self.min_count)[: self.max_values]
        if not values:
            raise InputError(
                f"column '{self.name}' has no value that {self.min_count} training rows share",
                help="leave the column out, or hash it",
            )
        others = [value for value in counts if value not in set(values)]
        first = 1 + len(values)
        seen = {first + bucket for bucket in hash_texts(others, self.other_buckets).tolist()}
        possible = {*(() if missing else (0,)), *(set(range(first, first + self.other_buckets)) - seen)}
        return VocabularyColumn(
            reads=self.name,
            values=values,
            other_buckets=self.other_buckets,
            unseen_ids=tuple(sorted(possible)),
            canonical=True,
            embedding=self.width(first + self.other_buckets),
        )


@dataclass(frozen=True)
class Hashed(Categorical):
    """A value by its hash: no vocabulary to keep, and values may share an id."""

    buckets: int = 1000
    label = "hash"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "buckets", self.buckets, at_least=1)

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return (RawColumn(self.name, "text", canonical=True),)

    def fit(self, raw: Raw) -> HashedColumn:
        width = self.width(1 + self.buckets)
        return HashedColumn(reads=self.name, buckets=self.buckets, canonical=True, embedding=width)


@dataclass(frozen=True)
class Crossed(Categorical):
    """Several columns as one.

    Args:
        name: of the cross.
        keys: what is crossed: columns, or the names of columns that make ids, see `resolved`.
        buckets: where there are more combinations than this, they are hashed into so many ids.
    """

    keys: tuple[Categorical | str, ...] = ()
    buckets: int = 1000
    label = "cross"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "buckets", self.buckets, at_least=1)
        if len(self.keys) < 2:
            raise InputError(f"column '{self.name}' crosses {len(self.keys)} columns", help="cross at least two")

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return tuple(raw for key in self.columns for raw in key.raw)

    @property
    def columns(self) -> tuple[Categorical, ...]:
        """The keys without names: those are resolved before."""
        return tuple(key for key in self.keys if not isinstance(key, str))

    def resolved(self, beside: Mapping[str, Categorical]) -> Crossed:
        """With the columns themselves in the place of their names.

        Raises:
            InputError: no column of that name makes ids.
        """
        keys = []
        for key in self.keys:
            if isinstance(key, str) and key not in beside:
                close = nearest(key, beside)
                raise InputError(
                    f"'{self.name}' crosses '{key}', but no column of that name makes ids"
                    f"; those that do: {', '.join(beside) or 'none'}",
                    help=f"did you mean '{close}'?" if close else "numbers make ids when they are bucketized",
                )
            keys.append(beside[key] if isinstance(key, str) else key)
        return replace(self, keys=tuple(keys))

    def fit(self, raw: Raw) -> CrossedColumn:
        column = CrossedColumn.model_validate(
            {"keys": [key.fit(raw).to_json() for key in self.columns], "buckets": self.buckets}
        )
        return column.model_copy(update={"embedding": self.width(column.size)})


def _require(column: Declaration, option: str, value: int | None, *, at_least: int) -> None:
    if value is not None and value < at_least:
        raise InputError(f"column '{column.name}': {option} = {value}, but it must be at least {at_least}")


def numeric(name: str, *, scale: Literal["linear", "log"] = "linear", shape: tuple[int, ...] = ()) -> Numeric:
    """A number, or an array of numbers, as standard deviations from its mean; of its logarithm with scale="log"."""
    return Numeric(name, scale=scale, shape=shape)


def bucketized(
    name: str, *, boundaries: tuple[float, ...] = (), buckets: int = 10, embedding: int | None = None
) -> Bucketized:
    """The bucket of a number, between `boundaries` or, without, `buckets` quantiles."""
    return Bucketized(name, boundaries=boundaries, buckets=buckets, embedding=embedding)


def vocabulary(
    name: str,
    *,
    values: tuple[str, ...] = (),
    min_count: int = 1,
    max_values: int | None = None,
    other_buckets: int = 1,
    embedding: int | None = None,
) -> Vocabulary:
    """One of several values: `values`, or those that at least `min_count` training rows have."""
    return Vocabulary(
        name,
        values=values,
        min_count=min_count,
        max_values=max_values,
        other_buckets=other_buckets,
        embedding=embedding,
    )


def hashed(name: str, *, buckets: int = 1000, embedding: int | None = None) -> Hashed:
    """A value by its hash."""
    return Hashed(name, buckets=buckets, embedding=embedding)


def crossed(*keys: Categorical | str, buckets: int = 1000, embedding: int | None = None) -> Crossed:
    """What several columns are together."""
    name = "*".join(key if isinstance(key, str) else key.name for key in keys)
    return Crossed(name, keys=keys, buckets=buckets, embedding=embedding)
