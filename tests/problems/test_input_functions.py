"""Every kind of source gives the same columns and labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
import scipy.sparse
import torch

from t2tdeploy.errors import InputError
from t2tdeploy.problems.input_functions import Table, as_array, input_fn, read_input

AGE, CITY, LABEL = [31.5, None, 40.0], ["Bern", None, "Rome"], [1, 0, 1]
DATA = {"age": AGE, "city": CITY, "label": LABEL}


def frames(folder: Path) -> dict[str, Any]:
    table = pyarrow.table(DATA)
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    pyarrow.parquet.write_table(table.slice(0, 1), folder / "first.parquet")
    pyarrow.parquet.write_table(table.slice(1), folder / "others.parquet")
    return {
        "mapping": DATA,
        "arrow": table,
        "parquet": folder / "rows.parquet",
        "name of parquet": str(folder / "rows.parquet"),
        "files": [folder / "first.parquet", folder / "others.parquet"],
        "pandas": pandas.DataFrame(DATA),
        "pandas, nullable": pandas.DataFrame(DATA).convert_dtypes(),
        "polars": polars.DataFrame(DATA),
        "polars, lazy": polars.LazyFrame(DATA),
    }


def same(table: Table) -> None:
    ages = [np.nan if value is None else float(value) for value in table.columns["age"].tolist()]
    np.testing.assert_equal(ages, [31.5, np.nan, 40.0])
    assert table.columns["city"].tolist() == CITY
    assert table.labels is not None
    assert table.labels.tolist() == LABEL


def test_frames_are_read_alike(tmp_path: Path) -> None:
    for name, frame in frames(tmp_path).items():
        table = read_input(input_fn(frame, target="label"))
        assert list(table.columns) == ["age", "city"], name
        same(table)


class Pairs(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError
        return {"age": torch.tensor(float(AGE[index] or np.nan)), "city": CITY[index]}, LABEL[index]


def test_parquet_files_may_differ_as_parts_of_one_do(tmp_path: Path) -> None:
    """Whole numbers with a gap in one part are floats there, and columns may stand in another order."""
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2], "city": ["Bern", "Rome"]}), tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"city": ["Oslo", "Bonn"], "n": [3.0, None]}), tmp_path / "b.parquet")
    table = read_input(input_fn([tmp_path / "a.parquet", tmp_path / "b.parquet"]))
    np.testing.assert_array_equal(table.columns["n"].astype(float), [1, 2, 3, np.nan])
    assert table.columns["city"].tolist() == ["Bern", "Rome", "Oslo", "Bonn"]
    pyarrow.parquet.write_table(pyarrow.table({"city": [1.5], "n": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"a\.parquet and the files after it do not go together"):
        read_input(input_fn([tmp_path / "a.parquet", tmp_path / "b.parquet"]))


def test_masked_values_are_missing() -> None:
    ages = np.ma.masked_array([31.5, 1e6, 40.0], mask=[False, True, False])
    cities = np.ma.masked_array(np.array(["Bern", "?", "Rome"]), mask=[False, True, False])
    whole = np.ma.masked_array([1, 2, 3], mask=[False, False, True])
    table = read_input(lambda: ({"age": ages, "city": cities, "n": whole}, LABEL))
    same(table)
    assert table.columns["n"].tolist() == [1, 2, None]


@pytest.mark.parametrize("values", [[0, 1, 1], [2**53 + 1, 0, 1], [True, False, True], ["a", "b", "c"]])
def test_masks_leave_what_is_there_as_it_is(values: list[Any]) -> None:
    plain, whole = np.array(values), as_array(np.ma.masked_array(values), "a")
    assert whole.dtype == as_array(plain, "a").dtype
    assert whole.tolist() == values
    assert as_array(np.ma.masked_array(values, mask=[False, False, True]), "a").tolist() == [*values[:2], None]


def test_masked_arrays_of_numbers_have_gaps() -> None:
    found = as_array(np.ma.masked_array([[1, 2], [3, 4]], mask=[[False, True], [False, False]]), "a")
    np.testing.assert_array_equal(found, [[1, np.nan], [3, 4]])


def test_torch_datasets_are_read() -> None:
    same(read_input(input_fn(Pairs())))
    assert read_input(input_fn(torch.ones(3, 2), torch.tensor(LABEL))).columns["inputs"].shape == (3, 2)
    tensors = torch.utils.data.TensorDataset(torch.arange(6.0).view(3, 2), torch.tensor(LABEL))
    table = read_input(input_fn(tensors))
    np.testing.assert_array_equal(table.columns["inputs"], np.arange(6.0).reshape(3, 2))
    assert table.labels is not None
    assert table.labels.tolist() == LABEL


def test_batches_are_joined_and_counted() -> None:
    def batches() -> Iterator[Any]:
        for row in range(3):
            yield {"age": AGE[row : row + 1], "city": CITY[row : row + 1]}, LABEL[row : row + 1]

    same(read_input(batches))
    assert len(read_input(batches, steps=2)) == 2


def test_a_function_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2tdeploy.problems.input_functions.MOST_BATCHES", 50)

    def endless() -> Iterator[Any]:
        while True:
            yield np.zeros((2, 3)), [0, 1]

    with pytest.raises(InputError, match="has not ended"):
        read_input(endless)
    assert len(read_input(endless, steps=4)) == 8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.parquet", "there is no file missing.parquet"),
        (__file__, "cannot be read as Parquet"),
        ({"labels": [1]}, "no column 'label'; valid columns: labels"),
    ],
)
def test_what_cannot_be_read_is_named(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_input(input_fn(source, target="label"))


def test_batches_must_be_alike() -> None:
    with pytest.raises(InputError, match="batch 1 has columns b"):
        read_input(lambda: iter([({"a": [1]}, [0]), ({"b": [1]}, [0])]))
    with pytest.raises(InputError, match="not all of one shape"):
        read_input(lambda: iter([(np.zeros((1, 2)), [0]), (np.zeros((1, 3)), [0])]))


def test_frames_of_pandas_may_have_numbers_for_names() -> None:
    table = read_input(input_fn(pandas.DataFrame([[1.5, 0], [2.5, 1]]), target=1))
    assert list(table.columns) == ["0"]
    assert table.labels is not None
    assert table.labels.tolist() == [0, 1]


@pytest.mark.parametrize("frame", [pandas.DataFrame, polars.DataFrame, polars.LazyFrame, pyarrow.table])
def test_frames_may_be_labels(frame: Any) -> None:
    labels = {"small": [0, 1, 1], "large": [1, 0, 1]}
    one, two = (read_input(lambda n=n: (frame({"age": AGE}), frame(dict([*labels.items()][:n])))) for n in (1, 2))
    assert one.labels is not None
    assert two.labels is not None
    assert one.labels.tolist() == labels["small"]
    assert two.labels.tolist() == [[0, 1], [1, 0], [1, 1]]
    with pytest.raises(InputError, match="'labels' is a frame without columns"):
        read_input(input_fn(frame({"age": AGE}), frame({})))
    with pytest.raises(InputError, match="not all of one shape"):
        read_input(input_fn(frame({"age": AGE}), frame({"a": LABEL, "b": [[1, 2]] * 3})))


@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.coo_array, torch.Tensor.to_sparse])
def test_sparse_arrays_are_what_they_are_dense(form: Any) -> None:
    dense = np.array([[0, 1.5], [2, 0], [0, 0]], np.float32)
    sparse = form(torch.from_numpy(dense) if form is torch.Tensor.to_sparse else dense)
    for given in (sparse, {"inputs": sparse}):
        table = read_input(input_fn(given, LABEL))
        np.testing.assert_array_equal(table.columns["inputs"], dense)
        assert table.labels is not None


def test_sparse_arrays_that_would_not_fit_are_refused() -> None:
    words = scipy.sparse.csr_array((1_000_000, 100_000), dtype=np.float64)
    with pytest.raises(InputError, match=r"sparse array of 1000000 by 100000: 800\.0 GB when dense") as caught:
        read_input(input_fn(words, [0, 1] * 500_000))
    assert "max_features" in (caught.value.help or "")


@pytest.mark.parametrize(
    "frame", [pandas.DataFrame([[1, 2]], columns=["a", "a"]), pyarrow.table([[1], [2]], names=["a", "a"])]
)
def test_columns_of_one_name_are_refused(frame: Any) -> None:
    with pytest.raises(InputError, match="two columns are called 'a'"):
        read_input(input_fn(frame))


def test_pictures_in_a_frame_of_polars_stay_bytes() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    found = read_input(input_fn(polars.DataFrame({"pixels": pixels}))).columns["pixels"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


def test_a_struct_is_no_array_of_numbers() -> None:
    frame = polars.DataFrame({"point": [{"x": 1, "y": 2}]})
    assert read_input(input_fn(frame)).columns["point"].tolist() == [{"x": 1, "y": 2}]
