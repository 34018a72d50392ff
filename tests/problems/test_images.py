"""Problems of images as a whole: from pictures on disk to the batches of training and evaluation."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2tdeploy.problems.batching import BatchStream, Position
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.problems.image_folder import ImageFolder

OPTIONS = {"folder": "pets", "height": 6, "width": 5, "crop_padding": 1, "flip": True, "colour_jitter": 0.2}
START = Position()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ProblemData:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pets" / name / f"{number}.png")
    (folder / "pets" / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    problem = ImageFolder(ImageFolder.options_class.create(OPTIONS))
    generate(problem, data_dir=folder / "data", source_dir=folder)
    return open_problem("image_folder", folder / "data")


def stream(data: ProblemData, position: Position) -> BatchStream:
    augment = data.problem.augment
    return BatchStream(data.split("train"), batch_size=7, max_length=256, seed=3, augment=augment, position=position)


def test_classes_and_shape_are_known_from_the_data_alone(data: ProblemData) -> None:
    assert data.features["targets"].classes == ("cat", "dog")
    assert data.features["inputs"].shape == (6, 5, 3)
    sizes = {split: len(data.split(split)) for split in data.record.splits}
    assert sum(sizes.values()) == 40
    assert min(sizes, key=sizes.__getitem__) != "train"


def test_evaluation_sees_the_pictures_as_they_are(data: ProblemData, tmp_path: Path) -> None:
    source = Path(data._data_dir).parent / "pets"
    pictures = {np.asarray(Image.open(path)).tobytes() for path in source.rglob("[0-9]*.png")}
    for split in ("train", "dev", "test"):
        dataset = data.split(split)
        batch = dataset.batch(np.arange(len(dataset)))
        assert {image.tobytes() for image in batch["inputs"]} <= pictures
        assert set(batch["targets"]) == {0, 1}


def test_training_sees_them_changed_and_a_resumed_run_the_same_ones(data: ProblemData) -> None:
    whole = list(islice(stream(data, START), 12))  # more than two epochs
    whole_again = stream(data, START)
    for _ in range(7):
        next(whole_again)
    resumed = list(islice(stream(data, whole_again.position), 5))
    for mine, expected in zip(resumed, whole[7:], strict=True):
        np.testing.assert_array_equal(mine["inputs"], expected["inputs"])
        np.testing.assert_array_equal(mine["targets"], expected["targets"])
    images = [batch["inputs"] for batch in whole]
    assert {(batch.dtype, batch.shape[1:]) for batch in images} == {(np.dtype(np.uint8), (6, 5, 3))}
    train = data.split("train")
    plain = {image.tobytes() for image in train.batch(np.arange(len(train)))["inputs"]}
    assert not plain & {image.tobytes() for batch in images for image in batch}
