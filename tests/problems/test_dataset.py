"""A generated data directory, as training sees it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.records import memory_map, schema_of
from t2tdeploy.tokenizer import encode_with_eos


@pytest.fixture
def data_dir(make_problem, tmp_path):
    generate(make_problem("toy_pairs"), data_dir=tmp_path / "data", source_dir=tmp_path, num_shards=3)
    return tmp_path / "data"


def test_examples_are_the_samples_encoded_with_eos(data_dir, make_problem, tmp_path):
    data = open_problem("toy_pairs", data_dir)
    samples = list(make_problem("toy_pairs").generate_samples("train", tmp_path, None))
    train = data.split("train")
    assert len(train) == len(samples)
    batch = train.batch(np.arange(len(train)))
    for feature in ("inputs", "targets"):
        assert train.texts(feature) == [sample[feature] for sample in samples]
        for i, sample in enumerate(samples):
            ids = encode_with_eos(data.tokenizers[feature], sample[feature])
            assert train.lengths[feature][i] == len(ids)
            assert batch[feature][i, : len(ids)].tolist() == ids
            assert not batch[feature][i, len(ids) :].any()


def test_a_batch_is_its_examples_padded_to_the_longest(data_dir):
    dev = open_problem("toy_pairs", data_dir).split("dev")
    singles = [dev.batch(np.array([i])) for i in range(len(dev))]

    @settings(max_examples=50)
    @given(st.lists(st.integers(0, len(dev) - 1), min_size=1, max_size=9))
    def law(indices):
        batch = dev.batch(np.array(indices))
        for name, ids in batch.items():
            assert ids.dtype == np.int64
            assert ids.shape == (len(indices), max(singles[i][name].shape[1] for i in indices))
            for row, i in zip(ids, indices, strict=True):
                single = singles[i][name][0]
                assert row.tolist() == [*single.tolist(), *[0] * (len(row) - len(single))]
        assert dev.texts("inputs", np.array(indices)) == [dev.texts("inputs")[i] for i in indices]

    law()


def test_no_indices_give_empty_arrays(data_dir):
    batch = open_problem("toy_pairs", data_dir).split("dev").batch(np.empty(0, np.int64))
    assert {ids.shape for ids in batch.values()} == {(0, 0)}


def test_joint_tokenizers_are_one_object(data_dir, make_problem, tmp_path):
    data = open_problem("toy_pairs", data_dir)
    assert data.tokenizers["inputs"] is data.tokenizers["targets"]
    apart = make_problem("toy_pairs", joint_vocabulary=False)
    generate(apart, data_dir=tmp_path / "apart", source_dir=tmp_path)
    data = open_problem("toy_pairs", tmp_path / "apart")
    assert data.record.vocabularies == {"inputs": "toy_pairs.inputs.vocab", "targets": "toy_pairs.targets.vocab"}
    assert {spec.vocabulary for spec in data.features.values()} == {"inputs", "targets"}


def test_the_memory_map_outlives_its_file(data_dir):
    dev = open_problem("toy_pairs", data_dir).split("dev")
    before = dev.texts("inputs")
    for path in (data_dir / ".arrow").iterdir():
        path.unlink()
    assert dev.texts("inputs") == before
    assert open_problem("toy_pairs", data_dir).split("dev").texts("inputs") == before


@pytest.mark.usefixtures("make_problem")
def test_not_generated_tells_what_to_run(tmp_path):
    with pytest.raises(InputError) as caught:
        open_problem("toy_pairs", tmp_path)
    assert "datagen --problem toy_pairs" in caught.value.help


def test_an_unknown_split_shows_the_others(data_dir):
    with pytest.raises(InputError, match="train, dev, test"):
        open_problem("toy_pairs", data_dir).split("valid")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"problem": "toy_pairs"}'])
def test_a_damaged_record_is_reported(data_dir, content):
    (data_dir / "toy_pairs.json").write_text(content)
    with pytest.raises(CorruptFileError):
        open_problem("toy_pairs", data_dir)


def test_a_vocabulary_of_other_data_is_refused(data_dir):
    record = json.loads((data_dir / "toy_pairs.json").read_text())
    record["tokenizer_hashes"]["inputs"] = "0" * 64
    (data_dir / "toy_pairs.json").write_text(json.dumps(record))
    with pytest.raises(CorruptFileError, match="vocabulary"):
        open_problem("toy_pairs", data_dir)


def test_a_damaged_memory_map_is_reported(data_dir):
    for path in (data_dir / ".arrow").iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptFileError, match="arrow"):
        open_problem("toy_pairs", data_dir).split("dev")


def test_ids_beyond_one_record_batch_are_found(tmp_path, monkeypatch):
    """The flat view of the file serves every record batch, whatever lies between them."""
    from t2tdeploy.problems import records
    from t2tdeploy.problems.dataset import Dataset

    monkeypatch.setattr(records, "_ROWS_PER_MAP_BATCH", 3)
    path = tmp_path / "a.parquet"
    features = {name: FeatureSpec(name, Modality.SYMBOL, vocabulary=name) for name in ("inputs", "targets")}
    schema = schema_of(features)
    rows = [[i] * (1 + i * 5 % 11) for i in range(20)]
    with records.shard_writer(path, schema, {}) as writer:
        for i, ids in enumerate(rows):
            writer.add(dict(zip(schema.names, (i, ids, ids[::-1], "x" * i, ""), strict=True)))
    dataset = Dataset(memory_map(tmp_path / "map", [path], schema), features)
    batch = dataset.batch(np.array([19, 0, 7, 8]))
    assert [row[row > 0].tolist() for row in batch["inputs"]] == [rows[19], [], rows[7], rows[8]]
