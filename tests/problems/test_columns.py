"""What went into the shards comes out of them, as batches and as samples, for every modality."""

import numpy as np
import pytest

from t2tdeploy.features import EOS_ID, FeatureSpec
from t2tdeploy.problems import records
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.tokenizer import encode_with_eos


@pytest.fixture
def _small_groups(monkeypatch):
    monkeypatch.setattr(records, "_ROWS_PER_GROUP", 7)
    monkeypatch.setattr(records, "_ROWS_PER_MAP_BATCH", 16)


@pytest.fixture
def opened(make_problem, tmp_path):
    """name -> the problem's data, generated, and its samples of dev."""

    def call(name):
        problem = make_problem(name)
        generate(problem, data_dir=tmp_path / "data", source_dir=tmp_path, num_shards=2)
        return open_problem(name, tmp_path / "data"), list(problem.generate_samples("dev", tmp_path, None))

    return call


@pytest.mark.usefixtures("_small_groups")
def test_batches_are_the_samples_in_the_types_of_their_modalities(opened):
    data, samples = opened("toy_row")
    dev = data.split("dev")
    assert data.features["tags"].classes == ("a", "b", "c")
    indices = np.array([39, 0, 17, 17, 5, 31])
    batch = dev.batch(indices)
    assert [(name, array.dtype, array.shape) for name, array in batch.items()] == [
        ("picture", np.uint8, (6, 4, 3, 2)),
        ("vector", np.float32, (6, 2, 3)),
        ("number", np.float32, (6,)),
        ("kind", np.int64, (6,)),
        ("tags", np.float32, (6, 3)),
        ("targets", np.float32, (6,)),
    ]
    for row, index in enumerate(indices):
        sample = samples[index]
        assert (batch["picture"][row] == sample["picture"]).all()
        assert (batch["vector"][row] == np.array(sample["vector"], np.float32)).all()
        assert batch["number"][row] == sample["number"]
        assert batch["kind"][row] == sample["kind"]
        assert batch["tags"][row].tolist() == [float(tag in sample["tags"]) for tag in "abc"]
        assert batch["targets"][row] == sample["targets"]
        for name in ("number", "kind", "tags", "targets"):
            assert dev.samples(name, indices)[row] == sample[name]
        assert (dev.samples("picture", indices)[row] == sample["picture"]).all()


def test_no_indices_give_arrays_without_examples(opened):
    batch = opened("toy_row")[0].split("dev").batch(np.empty(0, np.int64))
    assert [array.shape for array in batch.values()] == [(0, 4, 3, 2), (0, 2, 3), (0,), (0,), (0, 3), (0,)]


def test_labels_are_ids_from_0_and_names(opened):
    data, samples = opened("toy_classes")
    assert data.features["targets"].classes == ("9", "10", "none")  # numbers by value, then names
    dev = data.split("dev")
    names = [sample["targets"] for sample in samples]
    assert dev.texts("targets") == dev.samples("targets") == names
    ids = dev.batch(np.arange(len(dev)))["targets"]
    assert ids.dtype == np.int64
    assert [data.features["targets"].classes[id] for id in ids] == names
    assert list(data.tokenizers) == list(dev.lengths) == ["inputs"]


def test_the_texts_of_a_pair_follow_each_other_with_eos_behind_each(opened):
    data, samples = opened("toy_pair_classes")
    dev = data.split("dev")
    assert (data.features["inputs"].parts, data.features["targets"].classes) == (2, ("same", "other"))
    batch = dev.batch(np.arange(len(dev)))
    for row, sample in enumerate(samples):
        ids = [id for text in sample["inputs"] for id in encode_with_eos(data.tokenizers["inputs"], text)]
        assert ids.count(EOS_ID) == 2
        assert batch["inputs"][row, : dev.lengths["inputs"][row]].tolist() == ids
        assert batch["targets"][row] == sample["targets"]
    assert dev.samples("inputs") == [sample["inputs"] for sample in samples]
    assert dev.texts("inputs")[3] == "\t".join(samples[3]["inputs"])
    assert dev.samples("targets")[:2] == ["same", "other"]


def test_features_are_recorded_with_what_was_found(opened):
    data, _ = opened("toy_pair_classes")
    recorded = {name: FeatureSpec.from_json(spec) for name, spec in data.record.features.items()}
    assert recorded == data.features
    assert recorded["inputs"].vocab_size == data.tokenizers["inputs"].vocab_size


def test_large_rows_are_handled_a_few_at_a_time(opened, monkeypatch):
    whole = opened("toy_row")[0].split("dev").batch(np.arange(40))["picture"]
    monkeypatch.setattr(records, "_BYTES_AT_ONCE", 300)
    data, _ = opened("toy_row")
    for path in (data._data_dir / ".arrow").iterdir():
        path.unlink()
    assert (data.split("dev").batch(np.arange(40))["picture"] == whole).all()
