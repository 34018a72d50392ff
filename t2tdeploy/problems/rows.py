"""Rows of a table as they come from a file or a program, before columns are fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from t2tdeploy.columns.values import MISSING_NUMBERS, Array, RawColumn, raw_array
from t2tdeploy.errors import InputError, nearest


@dataclass(frozen=True)
class Rows:
    """Rows of a table as they come, column by column.

    Args:
        columns: name -> a value per row.
        place: what errors call the table.
        numbers: of each row in its file, for errors; None: they count from 1.
    """

    columns: Mapping[str, Sequence[Any] | Array]
    place: str
    numbers: Array | None = None

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], place: str) -> Rows:
        """From one mapping per row; a column that a row lacks is missing there."""
        found = list(rows)
        names = dict.fromkeys(name for row in found for name in row)
        return cls({name: [row.get(name) for row in found] for name in names}, place)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def number(self, row: int) -> int:
        """Of a row, in its file."""
        return row + 1 if self.numbers is None else int(self.numbers[row])

    def take(self, indices: Array) -> Rows:
        """The rows `indices`, in that order."""
        numbers = np.arange(1, len(self) + 1) if self.numbers is None else self.numbers
        columns = {
            name: values[indices] if isinstance(values, np.ndarray) else [values[index] for index in indices]
            for name, values in self.columns.items()
        }
        return Rows(columns, self.place, numbers[indices])

    def fault(self, column: str) -> Callable[[int, str], InputError]:
        """From the index of a row and what is wrong with its value of `column` to an error that names both."""

        def fail(row: int, problem: str) -> InputError:
            return InputError(f"{self.place}, row {self.number(row)}, column '{column}': {problem}")

        return fail

    def raw(self, column: RawColumn) -> Array:
        """A column in the form that fitted columns take.

        Raises:
            InputError: there is no such column, or a value of it does not do (with its row).
        """
        if column.name not in self.columns:
            close = nearest(column.name, self.columns)
            raise InputError(
                f"{self.place} has no column '{column.name}'; its columns: {', '.join(self.columns) or 'none'}",
                help=f"did you mean '{close}'?" if close else None,
            )
        values = self.columns[column.name]
        if column.kind == "number" and isinstance(values, np.ndarray):
            numbers = as_numbers(values)
            values = values if numbers is None else numbers
        return raw_array(column, values, self.fault(column.name))


def as_numbers(values: Array) -> Array | None:
    """The column as numbers; None if one of its texts shows none, or if all are missing."""
    if values.dtype != object:
        return values
    texts = pyarrow.array(values, pyarrow.string())
    missing = pyarrow.compute.is_in(pyarrow.compute.utf8_lower(texts), value_set=pyarrow.array(sorted(MISSING_NUMBERS)))
    if pyarrow.compute.all(missing).as_py():
        return None
    try:
        return float64(pyarrow.compute.if_else(missing, None, texts))
    except pyarrow.ArrowInvalid:
        return None


def float64(column: pyarrow.Array | pyarrow.ChunkedArray) -> Array:
    if pyarrow.types.is_float32(column.type):
        column = column.cast(pyarrow.string())  # the numbers as they are written: 0.1, not 0.10000000149011612
    found: Array = column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found
