"""Shards and their memory maps."""

import numpy as np
import pyarrow.parquet
import pytest

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems import records
from t2tdeploy.problems.dataset import Dataset
from t2tdeploy.problems.records import is_complete, memory_map, schema_of, shard_paths, shard_writer

METADATA = {"problem": "toy", "source": "abc"}
FEATURES = {name: FeatureSpec(name, Modality.SYMBOL, vocabulary=name) for name in ("inputs", "targets")}
SCHEMA = schema_of(FEATURES)


def row(index: int) -> dict[str, object]:
    length = 1 + index % 7
    return {
        "index": index,
        "inputs": [index] * length,
        "targets": [index, 1],
        "inputs_text": f"in {index}",
        "targets_text": f"out ü {index}",
    }


def write(folder, examples: int, num_shards: int):
    paths = shard_paths(folder, "toy", "train", num_shards)
    for shard, path in enumerate(paths):
        with shard_writer(path, SCHEMA, METADATA) as writer:
            for index in range(shard, examples, num_shards):
                writer.add(row(index))
    return paths


@pytest.fixture
def _small_groups(monkeypatch):
    monkeypatch.setattr(records, "_ROWS_PER_GROUP", 4)
    monkeypatch.setattr(records, "_ROWS_PER_MAP_BATCH", 10)


@pytest.mark.usefixtures("_small_groups")
@pytest.mark.parametrize(("examples", "num_shards"), [(1, 1), (50, 1), (50, 3), (47, 4), (5, 5), (96, 2)])
def test_the_map_has_all_rows_in_the_order_of_index(tmp_path, examples, num_shards):
    paths = write(tmp_path, examples, num_shards)
    dataset = Dataset(memory_map(tmp_path / "map.arrow", paths, SCHEMA), FEATURES)
    assert dataset.texts("targets") == [row(index)["targets_text"] for index in range(examples)]
    assert dataset.id_counts("inputs", examples).tolist() == [len(row(index)["inputs"]) for index in range(examples)]
    batch = dataset.batch(np.arange(examples))["inputs"]
    assert [ids[: 1 + i % 7].tolist() for i, ids in enumerate(batch)] == [row(i)["inputs"] for i in range(examples)]


def test_shards_are_plain_parquet(tmp_path):
    (path,) = write(tmp_path, 10, 1)
    table = pyarrow.parquet.read_table(path)
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist() == [row(index) for index in range(10)]


def test_complete_means_readable_and_of_the_same_making(tmp_path):
    (path,) = write(tmp_path, 10, 1)
    assert is_complete(path, METADATA)
    assert not is_complete(path, {**METADATA, "source": "other"})
    assert not is_complete(path, {**METADATA, "more": "x"})
    assert not is_complete(tmp_path / "none", METADATA)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_shard_is_found_out(tmp_path, damage):
    paths = write(tmp_path, 200, 2)
    content = bytearray(paths[1].read_bytes())
    if damage == "flipped":
        content[len(content) // 4] ^= 0xFF
    paths[1].write_bytes(content[:-20] if damage == "cut" else content)
    assert not is_complete(paths[1], METADATA)
    with pytest.raises(CorruptFileError) as caught:
        memory_map(tmp_path / "map.arrow", paths, SCHEMA)
    assert caught.value.path == paths[1]
    assert "datagen" in caught.value.help
    assert not (tmp_path / "map.arrow").exists()


def test_a_missing_shard_is_named(tmp_path):
    paths = write(tmp_path, 20, 2)
    paths[0].unlink()
    with pytest.raises(InputError, match=paths[0].name):
        memory_map(tmp_path / "map.arrow", paths, SCHEMA)


def test_shards_of_different_splittings_do_not_mix(tmp_path):
    two, three = write(tmp_path / "two", 20, 2), write(tmp_path / "three", 20, 3)
    with pytest.raises(CorruptFileError):
        memory_map(tmp_path / "map.arrow", [two[0], three[1]], SCHEMA)


def test_a_failed_shard_leaves_nothing(tmp_path):
    def write_and_fail():
        with shard_writer(tmp_path / "a.parquet", SCHEMA, METADATA) as writer:
            writer.add(row(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []
