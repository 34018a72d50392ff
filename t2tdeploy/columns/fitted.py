"""Fitted columns: what is known of a column after training rows were seen, and the features it makes of raw values.

`apply` here is the definition; export/columns.py writes the same as ONNX nodes. A fitted column is plain JSON, and
travels as `FeatureSpec.column` through the run directory into the bundle's graph.

    column       feature                             a missing value
    numeric      REAL: standard deviations from      the mean: 0
                 the mean of the training rows
    bucketized   CATEGORY: 1 + number of the bucket  id 0
    vocabulary   CATEGORY: 1 + number of the value;  id 0
                 behind these the buckets of values
                 that are not in the vocabulary
    hashed       CATEGORY: 1 + hash                  id 0
    crossed      CATEGORY: of several ids one        as the columns that it crosses have it
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from t2tdeploy.columns.hashing import hash_texts, mix_ids
from t2tdeploy.columns.values import Array, Raw, RawColumn
from t2tdeploy.features import FeatureSpec, Modality

FARTHEST = 1e6
"""Standard deviations from the mean that a number counts as at most: what is beyond would overflow in a model."""


class FittedColumn(BaseModel):
    """What all columns have.

    Attributes:
        kind: which column it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: str

    @property
    @abstractmethod
    def raw(self) -> tuple[RawColumn, ...]:
        """The raw columns that it reads."""

    @abstractmethod
    def apply(self, raw: Raw) -> Array:
        """The feature: float32 [batch, *shape] (REAL) or int64 [batch] (CATEGORY)."""

    @abstractmethod
    def feature(self, name: str) -> FeatureSpec:
        """The declaration of the feature, with this column in it."""

    def to_json(self) -> dict[str, Any]:
        """As `FeatureSpec.column` holds it."""
        return self.model_dump(mode="json")


class NumericColumn(FittedColumn):
    """(x - mean) / deviation, after sign(x) log(1 + |x|) if the scale is log.

    Args:
        reads: name of the raw column.
        shape: of one value.
        mean, deviation: of the training rows, for each element of a value, in C order; a deviation of 0 is written 1.
    """

    kind: Literal["numeric"] = "numeric"
    reads: str
    shape: tuple[int, ...] = ()
    scale: Literal["linear", "log"] = "linear"
    mean: tuple[float, ...]
    deviation: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _complete(self) -> NumericColumn:
        if not len(self.mean) == len(self.deviation) == prod(self.shape):
            raise ValueError(f"a mean and a deviation are needed for each of {prod(self.shape)} elements")
        return self

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return (RawColumn(self.reads, "number", self.shape),)

    @property
    def constants(self) -> tuple[Array, Array]:
        """mean and deviation, float32 [*shape]."""
        mean, deviation = (np.array(values, np.float32).reshape(self.shape) for values in (self.mean, self.deviation))
        return np.asarray(mean), np.asarray(deviation)

    def apply(self, raw: Raw) -> Array:
        values, (mean, deviation) = raw[self.reads], self.constants
        with np.errstate(all="ignore"):
            scaled = log_scale(values) if self.scale == "log" else values
            normal = np.clip((scaled - mean) / deviation, np.float32(-FARTHEST), np.float32(FARTHEST))
        return np.where(np.isfinite(values), normal, np.float32(0))

    def feature(self, name: str) -> FeatureSpec:
        return FeatureSpec(name=name, modality=Modality.REAL, shape=self.shape, column=self.to_json())


def log_scale(values: Array) -> Array:
    """sign(x) log(1 + |x|): a logarithm for large numbers of either sign that goes through 0."""
    scaled: Array = np.sign(values) * np.log(np.abs(values) + values.dtype.type(1))
    return scaled


class CategoricalColumn(FittedColumn):
    """A column that makes an id of a value.

    Args:
        embedding: width of the vectors that models learn for its ids; None: an indicator, a 1 among 0s.
    """

    embedding: int | None = Field(None, ge=1)

    @property
    @abstractmethod
    def size(self) -> int:
        """How many ids there are."""

    @property
    def unseen(self) -> tuple[int, ...]:
        """Ids that no training row had, so that nothing can be learned of them: models give them no influence."""
        return ()

    def feature(self, name: str) -> FeatureSpec:
        return FeatureSpec(name=name, modality=Modality.CATEGORY, vocab_size=self.size, column=self.to_json())


class BucketizedColumn(CategoricalColumn):
    """The number of the bucket a number is in.

    Args:
        boundaries: ascending; a number that equals one belongs to the bucket above it. They are compared in float32.
        missing_seen: whether a training row had no number.
    """

    kind: Literal["bucketized"] = "bucketized"
    reads: str
    boundaries: tuple[float, ...] = Field(min_length=1)
    missing_seen: bool = True

    @model_validator(mode="after")
    def _ascend(self) -> BucketizedColumn:
        if any(low >= high for low, high in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError("boundaries must ascend")
        return self

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return (RawColumn(self.reads, "number"),)

    @property
    def size(self) -> int:
        return len(self.boundaries) + 2

    @property
    def unseen(self) -> tuple[int, ...]:
        return () if self.missing_seen else (0,)

    def apply(self, raw: Raw) -> Array:
        values = raw[self.reads]
        bucket = 1 + np.searchsorted(np.array(self.boundaries, np.float32), values, side="right")
        return np.where(np.isfinite(values), bucket, 0).astype(np.int64)


class VocabularyColumn(CategoricalColumn):
    """The number of a value among those of the training rows.

    Args:
        values: the vocabulary.
        other_buckets: ids for values that are not in it, dealt out by their hash.
        unseen_ids: ids without a training row, among those of missing and other values.
        canonical: see RawColumn; columns fitted by early versions lack it, and keep what they read.
    """

    kind: Literal["vocabulary"] = "vocabulary"
    reads: str
    values: tuple[str, ...] = Field(min_length=1)
    other_buckets: int = Field(1, ge=1)
    unseen_ids: tuple[int, ...] = ()
    canonical: bool = False

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return (RawColumn(self.reads, "text", canonical=self.canonical),)

    @property
    def size(self) -> int:
        return 1 + len(self.values) + self.other_buckets

    @property
    def unseen(self) -> tuple[int, ...]:
        return self.unseen_ids

    @cached_property
    def ids(self) -> dict[str, int]:
        """Value -> id; the empty text is a missing value."""
        return {"": 0, **{value: 1 + index for index, value in enumerate(self.values)}}

    def apply(self, raw: Raw) -> Array:
        values, others = raw[self.reads], 1 + len(self.values)
        found = np.array([self.ids.get(value, -1) for value in values], np.int64)
        unknown = found < 0
        found[unknown] = others + hash_texts(values[unknown], self.other_buckets)
        return found


class HashedColumn(CategoricalColumn):
    """A number made of the value itself; different values may have the same one.

    Args:
        canonical: as of VocabularyColumn.
    """

    kind: Literal["hashed"] = "hashed"
    reads: str
    buckets: int = Field(ge=1)
    canonical: bool = False

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return (RawColumn(self.reads, "text", canonical=self.canonical),)

    @property
    def size(self) -> int:
        return 1 + self.buckets

    def apply(self, raw: Raw) -> Array:
        values = raw[self.reads]
        missing = np.array([value == "" for value in values], bool)
        return np.where(missing, 0, 1 + hash_texts(values, self.buckets)).astype(np.int64)


Crossable = Annotated[BucketizedColumn | VocabularyColumn | HashedColumn, Field(discriminator="kind")]


class CrossedColumn(CategoricalColumn):
    """One id for what several columns are together.

    Args:
        keys: the columns; they need not be features of their own.
        buckets: where there are more combinations than this, they are hashed into so many ids; otherwise each has an
            id of its own.
    """

    kind: Literal["crossed"] = "crossed"
    keys: tuple[Crossable, ...] = Field(min_length=2)
    buckets: int = Field(ge=1)

    @property
    def raw(self) -> tuple[RawColumn, ...]:
        return tuple(dict.fromkeys(raw for key in self.keys for raw in key.raw))

    @property
    def is_hashed(self) -> bool:
        """Whether different combinations may have the same id."""
        return prod(key.size for key in self.keys) > self.buckets

    @property
    def size(self) -> int:
        return self.buckets if self.is_hashed else prod(key.size for key in self.keys)

    def apply(self, raw: Raw) -> Array:
        ids = [key.apply(raw) for key in self.keys]
        if self.is_hashed:
            return mix_ids(ids, self.buckets)
        found = np.zeros_like(ids[0])
        for key, part in zip(self.keys, ids, strict=True):
            found = found * key.size + part
        return found


_AnyColumn = Annotated[NumericColumn | Crossable | CrossedColumn, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(_AnyColumn)


def column_of(spec: FeatureSpec) -> FittedColumn | None:
    """The fitted column that makes a feature; None: it comes as it is.

    Raises:
        pydantic.ValidationError: the record is damaged.
    """
    if spec.column is None:
        return None
    column: FittedColumn = _ADAPTER.validate_python(spec.column)
    return column


def raw_columns(features: dict[str, FeatureSpec]) -> dict[str, RawColumn]:
    """The raw columns of all features but "targets", in their order: what a client sends of an example."""
    columns = [column_of(spec) for name, spec in features.items() if name != "targets"]
    return {raw.name: raw for column in columns if column is not None for raw in column.raw}
