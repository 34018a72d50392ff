"""Input functions, as users of Estimators know them: data frames, arrays, Arrow, Parquet and torch datasets.

An input function takes nothing and returns (features, labels), or batches of such pairs, or features alone to predict
from. Features are columns by name, a frame, or one array, which is then the column "inputs". All of it is read into
memory: batches are cut, shuffled and repeated by training. For more than fits there, write a problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t2tdeploy.errors import InputError, nearest
from t2tdeploy.files import reading

Array = npt.NDArray[Any]
InputFunction = Callable[[], Any]

INPUTS = "inputs"
"""The column that features without a name are."""

MOST_BYTES = 4 << 30
MOST_BATCHES = 1_000_000
_NUMBERS = "iufb"


@dataclass(frozen=True)
class Table:
    """What an input function gave.

    Args:
        columns: name -> a value per example, [examples, ...].
        labels: [examples, ...]; None: there are none.
    """

    columns: dict[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def input_fn(source: Any, labels: Any = None, *, target: str | None = None) -> InputFunction:
    """An input function of data that are there already; they are read when it is called.

    Args:
        source: a pandas or Polars frame (a lazy one is collected), a pyarrow Table, a Parquet file or a list of them, a
            mapping of columns, an array, which may be one of scipy.sparse, or a torch dataset whose examples are
            (features, label) or mappings.
        labels: of a source that does not have them.
        target: the column of the source that is the label.

    Raises, when it is called:
        InputError: the source cannot be read, or has no column `target`.
    """

    def read() -> tuple[dict[str, Array], Array | None]:
        columns, own = _columns_of_source(_parquet(source) if _is_files(source) else source)
        found = own if labels is None else as_array(labels, "labels")
        if target is not None:
            wanted = str(target)  # names of columns are texts here, and may have been numbers
            if wanted not in columns:
                close = nearest(wanted, columns)
                raise InputError(
                    f"there is no column '{wanted}'; valid columns: {', '.join(columns) or 'none'}",
                    help=f"did you mean '{close}'?" if close else None,
                )
            found = columns.pop(wanted)
        return columns, found

    return read


def read_input(function: InputFunction, *, steps: int | None = None) -> Table:
    """Everything that an input function gives; what it raises comes through.

    Args:
        steps: of batches, how many at most; None: all, so that they must end.

    Raises:
        InputError: it is no function, gives nothing, columns of unequal lengths, or more than fits.
    """
    if not callable(function):
        raise InputError(
            f"the input function is {_kind(function)}, which cannot be called",
            help="give a function that returns (features, labels), e.g. t2tdeploy.input_fn(frame, target='label')",
        )
    given = function()
    parts = [given] if _is_whole(given) else _batches(given, steps)
    table = _joined([_table(part) for part in parts])
    if not table.columns or not len(table):
        raise InputError("the input function gave no examples", help="look at what it reads")
    return table


def as_array(values: Any, name: str) -> Array:
    """One column, of a tensor, a series, an Arrow array or a list.

    Raises:
        InputError: its values are of different shapes, or there is only one value.
    """
    if (columns := _frame_columns(values)) is not None:
        return _side_by_side([as_array(column, name) for _, column in columns], name)
    if hasattr(values, "detach"):
        values = values.detach().cpu().to_dense().numpy()
    elif _is_sparse(values):
        values = _dense(values, name)
    elif isinstance(values, np.ma.MaskedArray):
        values = _filled(values)
    elif not isinstance(values, np.ndarray):
        values = _plain(values)
    try:
        array = np.asarray(values)
        if array.dtype == object and array.ndim == 1 and len(array) and all(map(_is_list, array)):
            array = np.stack([np.asarray(value) for value in array])
        elif array.dtype.kind in "US":  # numpy has made texts of what may be numbers, and of None
            array = _objects(values)
    except ValueError:
        raise InputError(f"the values of column '{name}' are not all of one shape") from None
    if array.ndim == 0:
        raise InputError(f"column '{name}' is one value, {array.item()!r:.60}, where there must be one per example")
    return array


def _is_sparse(values: Any) -> bool:
    """Of SciPy, as scikit-learn's vectorizers give."""
    return hasattr(values, "toarray") and hasattr(values, "nnz")


def _dense(values: Any, name: str) -> Array:
    size = math.prod(values.shape) * values.dtype.itemsize
    if size > MOST_BYTES:
        shape = " by ".join(map(str, values.shape))
        raise InputError(
            f"column '{name}' is a sparse array of {shape}: {size / 1e9:.1f} GB when dense",
            help="keep fewer features, e.g. with max_features=, or write a problem",
        )
    dense: Array = values.toarray()
    return dense


def _filled(values: np.ma.MaskedArray[Any, Any]) -> Array:
    """What is masked is missing: NaN among floats, None among others, as where Arrow has nulls.

    Arrays of whole numbers become floats, for columns of arrays hold nothing else.
    """
    if not np.ma.is_masked(values):
        return np.asarray(values.data)
    is_float = values.dtype.kind == "f" or (values.ndim > 1 and values.dtype.kind in _NUMBERS)
    found: Array = np.array(values.data, dtype=np.float64 if is_float else object)
    found[np.ma.getmaskarray(values)] = np.nan if is_float else None
    return found


def _is_whole(given: Any) -> bool:
    """Whether it is all the examples at once, not batches of them."""
    known = isinstance(given, tuple | Mapping | np.ndarray) or hasattr(given, "shape") or hasattr(given, "detach")
    return known or _is_lazy(given)


def _batches(given: Any, steps: int | None) -> Iterator[Any]:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise InputError(
            f"the input function returned {_kind(given)}",
            help="return (features, labels), or batches of such pairs; features are columns by name, or an array",
        )
    size = 0
    for number, batch in enumerate(given):
        if steps is not None and number >= steps:
            return
        size += sum(array.nbytes for array in _table(batch).columns.values())
        if size > MOST_BYTES or number >= MOST_BATCHES:
            raise InputError(
                f"the input function has given {number} batches, {size / 1e9:.1f} GB, and has not ended",
                help="leave out repeat(): training goes through the examples as often as it needs; for more data than "
                "fits into memory, write a problem",
            )
        yield batch


def _table(given: Any) -> Table:
    if isinstance(given, Table):
        return given
    features, labels = given, None
    if isinstance(given, tuple | list):
        if len(given) != 2:
            raise InputError(
                f"the input function gave {len(given)} values", help="a pair is expected: (features, labels)"
            )
        features, labels = given
    columns, own = _columns_of_source(features)
    labels = own if labels is None else as_array(labels, "labels")
    lengths = {name: len(values) for name, values in columns.items()}
    if labels is not None:
        lengths["labels"] = len(labels)
    if len({*lengths.values()}) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"the columns have different numbers of values: {listed}")
    return Table(columns, labels)


def _joined(parts: Sequence[Table]) -> Table:
    if len(parts) <= 1:
        return parts[0] if parts else Table({})
    first = parts[0]
    for number, part in enumerate(parts):
        if {*part.columns} != {*first.columns} or (part.labels is None) != (first.labels is None):
            raise InputError(f"batch {number} has columns {', '.join(part.columns)}; the first: {_shown(first)}")
    columns = {name: _concatenated([part.columns[name] for part in parts], name) for name in first.columns}
    labels = [part.labels for part in parts if part.labels is not None]
    return Table(columns, _concatenated(labels, "labels") if labels else None)


def _concatenated(arrays: Sequence[Array], name: str) -> Array:
    """Batches of a column as one; numbers and texts stay what they are."""
    if len({array.dtype.kind in _NUMBERS for array in arrays}) > 1:
        arrays = [array.astype(object) for array in arrays]
    try:
        return np.concatenate(arrays)
    except ValueError:
        shapes = ", ".join(sorted({str(list(array.shape[1:])) for array in arrays}))
        raise InputError(f"the values of column '{name}' are not all of one shape: {shapes}") from None


def _side_by_side(arrays: Sequence[Array], name: str) -> Array:
    """The columns of a frame as one array, [examples, columns]; of one column, that column."""
    if not arrays:
        raise InputError(f"column '{name}' is a frame without columns")
    if len({array.shape for array in arrays}) > 1:
        raise InputError(f"the values of column '{name}' are not all of one shape")
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)


def _columns_of_source(source: Any) -> tuple[dict[str, Array], Array | None]:
    """Columns, and the labels of a dataset whose examples have them."""
    if isinstance(source, Mapping):
        return {str(name): as_array(values, str(name)) for name, values in source.items()}, None
    if (columns := _frame_columns(source)) is not None:
        names = [str(name) for name, _ in columns]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"two columns are called '{twice}'", help="give each a name of its own")
        return {str(name): as_array(values, str(name)) for name, values in columns}, None
    is_column = _is_list(source) or hasattr(source, "detach") or hasattr(source, "to_numpy") or _is_sparse(source)
    if not is_column and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _of_dataset(source)
    return {INPUTS: as_array(source, INPUTS)}, None


def _of_dataset(dataset: Any) -> tuple[dict[str, Array], Array | None]:
    """A dataset of torch with a length: examples (features, label), or mappings, or features alone."""
    rows = [dataset[index] for index in range(len(dataset))]
    labels = None
    if rows and isinstance(rows[0], tuple) and len(rows[0]) == 2:
        labels = as_array([_value(label) for _, label in rows], "labels")
        rows = [features for features, _ in rows]
    if rows and isinstance(rows[0], Mapping):
        return {str(name): as_array([_value(row[name]) for row in rows], str(name)) for name in rows[0]}, labels
    return {INPUTS: as_array([_value(row) for row in rows], INPUTS)}, labels


def _frame_columns(source: Any) -> list[tuple[Any, Any]] | None:
    """The columns of a frame with their names, of which two may be the same; None if it is no frame."""
    if hasattr(source, "column_names"):  # pyarrow
        return list(zip(source.column_names, source.columns, strict=True))
    if _is_lazy(source):
        source = source.collect()
    if hasattr(source, "get_columns"):  # Polars
        return [(series.name, series) for series in source.get_columns()]
    if hasattr(source, "iloc") and hasattr(source, "columns"):  # pandas
        return [(name, source.iloc[:, place]) for place, name in enumerate(source.columns)]
    return None


def _is_lazy(source: Any) -> bool:
    """Of Polars."""
    return hasattr(source, "collect") and hasattr(source, "collect_schema")


def _is_files(source: Any) -> bool:
    if isinstance(source, list):
        return bool(source) and all(isinstance(one, PathLike) or str(one).endswith(".parquet") for one in source)
    return isinstance(source, str | PathLike)


def _parquet(source: Any) -> Any:
    import pyarrow
    import pyarrow.parquet

    paths = source if isinstance(source, list) else [source]
    tables = []
    for path in map(Path, paths):
        try:
            with reading(path):
                tables.append(pyarrow.parquet.read_table(path))
        except (OSError, pyarrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path} cannot be read as Parquet: {reason}", path=path) from error
    try:
        return pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{paths[0]} and the files after it do not go together: {reason}", path=paths[0]) from error


def _plain(values: Any) -> Any:
    """What numpy can read of a series or an Arrow array; a missing value that is no number is None."""
    if hasattr(values, "null_count") and hasattr(values, "to_pylist"):  # Arrow
        return values.to_pylist()
    if hasattr(values, "isna") and hasattr(values, "to_numpy"):  # pandas
        if isinstance(values.dtype, np.dtype) and values.dtype.kind in _NUMBERS:
            return values.to_numpy()
        return _objects(None if gone else value for value, gone in zip(values.tolist(), values.isna(), strict=True))
    if hasattr(values, "to_list") and hasattr(values, "to_numpy"):  # Polars
        if values.null_count() or not (values.dtype.is_numeric() or hasattr(values.dtype, "shape")):
            return values.to_list()  # numpy would make floats of whole numbers with gaps, and numbers of structs
        return values.to_numpy()  # keeps bytes bytes, which are pixels
    return values


def _objects(values: Iterable[Any]) -> Array:
    """One object per value, whatever numpy would make of them."""
    listed = [value.item() if isinstance(value, np.generic) else value for value in values]
    found = np.empty(len(listed), object)
    found[:] = listed
    return found


def _value(value: Any) -> Any:
    """A number or an array of what may be a tensor."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _shown(table: Table) -> str:
    return ", ".join(table.columns) + ("" if table.labels is None else " and labels")


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
