"""The features of a split, read from its memory map: one column per feature, arrays of a batch out of it.

What is in the columns of the file is said in `codecs`, what is in a batch in `features.Modality`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.batching import Indices


class Column(ABC):
    """One feature of all examples of a split.

    Args:
        spec: the feature.
        table: the split, memory-mapped.
    """

    def __init__(self, spec: FeatureSpec, table: pyarrow.Table) -> None:
        self.spec, self._table = spec, table

    @abstractmethod
    def batch(self, indices: Indices) -> npt.NDArray[Any]:
        """The examples `indices`, as `features.Modality` says."""

    def samples(self, indices: Indices | None = None) -> list[Any]:
        """The raw values of a feature, as a sample of a problem has them, in the order of `indices`; None: of all."""
        return list(self.batch(np.arange(len(self._table)) if indices is None else indices))

    def texts(self, indices: Indices | None = None) -> list[str]:
        """The values as text; of several texts or classes one, tabs between them."""
        return [str(sample) for sample in self.samples(indices)]

    def keys(self, indices: Indices) -> list[bytes]:
        """Bytes that are equal where the values are."""
        return [row.tobytes() for row in self.batch(indices)]


class _TextColumn(Column):
    """A feature whose texts are stored beside what is computed with."""

    def samples(self, indices: Indices | None = None) -> list[Any]:
        column = self._table[f"{self.spec.name}_text"]
        return list((column if indices is None else column.take(pyarrow.array(indices))).to_pylist())

    def texts(self, indices: Indices | None = None) -> list[str]:
        samples = self.samples(indices)
        return [sample if isinstance(sample, str) else "\t".join(sample) for sample in samples]

    def keys(self, indices: Indices) -> list[bytes]:
        return [text.encode() for text in self.texts(indices)]


class SymbolColumn(_TextColumn):
    """Ids of a vocabulary.

    Attributes:
        lengths: int32 [examples], tokens with EOS.
    """

    def __init__(self, spec: FeatureSpec, table: pyarrow.Table, buffer: pyarrow.Buffer) -> None:
        super().__init__(spec, table)
        # All ids of the file are elements of this one array: example i starts at _starts[i].
        self._ids = np.frombuffer(buffer, dtype=np.int32, count=buffer.size // 4)
        starts, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        for chunk in table[spec.name].chunks:
            offsets = chunk.offsets.to_numpy()
            values = chunk.values.buffers()[1]
            first = (values.address - buffer.address) // 4 if values is not None else 0
            starts.append(offsets[:-1].astype(np.int64) + first + chunk.values.offset)
            lengths.append(np.diff(offsets))
        self._starts = np.concatenate(starts)
        self.lengths: npt.NDArray[np.int32] = np.concatenate(lengths)

    def batch(self, indices: Indices) -> npt.NDArray[np.int64]:
        lengths, starts = self.lengths[indices], self._starts[indices]
        columns = np.arange(lengths.max(initial=0))  # [longest]
        filled = columns < lengths[:, None]  # [batch, longest]
        padded = np.zeros(filled.shape, np.int64)
        padded[filled] = self._ids[(starts[:, None] + columns)[filled]]
        return padded

    def samples(self, indices: Indices | None = None) -> list[Any]:
        samples = super().samples(indices)
        return samples if self.spec.parts == 1 else [tuple(sample) for sample in samples]

    def id_counts(self, size: int) -> npt.NDArray[np.int64]:
        """How often each id occurs: int64 [size]."""
        return _id_counts(self._table[self.spec.name], size)


class ClassLabelColumn(_TextColumn):
    """One class per example, as its id."""

    def __init__(self, spec: FeatureSpec, table: pyarrow.Table) -> None:
        super().__init__(spec, table)
        self._ids = table[spec.name].to_numpy()

    def batch(self, indices: Indices) -> npt.NDArray[np.int64]:
        ids: npt.NDArray[np.int64] = self._ids[indices].astype(np.int64)
        return ids

    def id_counts(self, size: int) -> npt.NDArray[np.int64]:
        """How many examples each class has: int64 [size]."""
        return np.bincount(self._ids, minlength=size)


class MultiLabelColumn(_TextColumn):
    """Any number of classes per example."""

    def batch(self, indices: Indices) -> npt.NDArray[np.float32]:
        labels = np.zeros((len(indices), len(self.spec.classes)), np.float32)
        for row, ids in enumerate(self._table[self.spec.name].take(pyarrow.array(indices)).to_pylist()):
            labels[row, ids] = 1.0
        return labels

    def id_counts(self, size: int) -> npt.NDArray[np.int64]:
        """How many examples have each class: int64 [size]."""
        return _id_counts(self._table[self.spec.name], size)


class NumberColumn(Column):
    """One number per example: REAL without a shape, or CATEGORY."""

    def __init__(self, spec: FeatureSpec, table: pyarrow.Table) -> None:
        super().__init__(spec, table)
        self._values = table[spec.name].to_numpy()
        self._dtype = np.int64 if spec.modality is Modality.CATEGORY else np.float32

    def batch(self, indices: Indices) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._values[indices].astype(self._dtype)
        return values

    def samples(self, indices: Indices | None = None) -> list[Any]:
        values: list[Any] = (self._values if indices is None else self._values[indices]).tolist()
        return values


class ArrayColumn(Column):
    """An array of one shape per example, REAL or IMAGE; the arrays stay in the memory map until a batch has them."""

    def __init__(self, spec: FeatureSpec, table: pyarrow.Table) -> None:
        super().__init__(spec, table)
        self._chunks = [_matrix(chunk) for chunk in table[spec.name].chunks]
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])
        self._dtype = np.uint8 if spec.modality is Modality.IMAGE else np.float32

    def batch(self, indices: Indices) -> npt.NDArray[Any]:
        rows = np.empty((len(indices), int(np.prod(self.spec.shape))), self._dtype)
        chunk_of = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(chunk_of):
            chunk, places = self._chunks[number], chunk_of == number
            rows[places] = chunk[indices[places] - (self._ends[number] - len(chunk))]
        return rows.reshape(len(indices), *self.spec.shape)


def open_column(spec: FeatureSpec, table: pyarrow.Table, buffer: pyarrow.Buffer) -> Column:
    """The column of a feature.

    Args:
        buffer: the memory map of `table`.
    """
    if spec.modality is Modality.SYMBOL:
        return SymbolColumn(spec, table, buffer)
    if spec.modality is Modality.CLASS_LABEL:
        return ClassLabelColumn(spec, table)
    if spec.modality is Modality.MULTI_LABEL:
        return MultiLabelColumn(spec, table)
    if spec.modality is Modality.CATEGORY or (spec.modality is Modality.REAL and not spec.shape):
        return NumberColumn(spec, table)
    return ArrayColumn(spec, table)


def _matrix(chunk: pyarrow.Array) -> npt.NDArray[Any]:
    """The rows of a chunk, [rows, values], not copied."""
    if pyarrow.types.is_fixed_size_binary(chunk.type):
        width = chunk.type.byte_width
        pixels = np.frombuffer(chunk.buffers()[1], np.uint8)
        return pixels[chunk.offset * width : (chunk.offset + len(chunk)) * width].reshape(len(chunk), width)
    values: npt.NDArray[Any] = chunk.flatten().to_numpy()
    return values.reshape(len(chunk), chunk.type.list_size)


def _id_counts(column: pyarrow.ChunkedArray, size: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(size, np.int64)
    for chunk in column.chunks:
        counts += np.bincount(chunk.values.to_numpy(), minlength=size)
    return counts
