"""The embedded digits: every image is in one split, and each split has the classes in the same proportions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

from t2tdeploy.problems.image_digits import ImageDigits
from t2tdeploy.progress import SilentReporter


def samples(split: str, **options: Any) -> list[dict[str, Any]]:
    problem = ImageDigits(ImageDigits.options_class.create(options))
    return list(problem.generate_samples(split, Path(), SilentReporter()))


def content(found: list[dict[str, Any]]) -> list[tuple[bytes, str]]:
    return [(sample["inputs"].tobytes(), sample["targets"]) for sample in found]


def test_the_splits_are_a_partition() -> None:
    splits = {split: samples(split) for split in ImageDigits.splits}
    assert {split: len(found) for split, found in splits.items()} == {"train": 1293, "dev": 144, "test": 360}
    digits = load_digits()
    images = [(image * 255 / 16).round().astype("uint8").tobytes() for image in digits.images]
    published = Counter(zip(images, digits.target.astype(str), strict=True))
    assert Counter(pair for found in splits.values() for pair in content(found)) == published


@pytest.mark.parametrize("split", ImageDigits.splits)
def test_every_split_has_the_classes_in_the_same_proportions(split: str) -> None:
    counts = Counter(sample["targets"] for sample in samples(split))
    whole = Counter(load_digits().target.astype(str))
    total = sum(counts.values())
    assert all(abs(counts[digit] - total * whole[digit] / 1797) <= 1.5 for digit in whole)


def test_the_division_is_a_function_of_the_seed() -> None:
    assert content(samples("test")) == content(samples("test"))
    assert content(samples("test", seed=1)) != content(samples("test"))


def test_an_image_is_white_on_black_over_the_whole_range() -> None:
    first = samples("train")[0]["inputs"]
    assert (first.shape, str(first.dtype)) == ((8, 8, 1), "uint8")
    assert max(sample["inputs"].max() for sample in samples("dev")) == 255
