"""Augmentation is a function of batch and generator, and does to each image what its words say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from t2tdeploy.problems.augmentation import Augmentation

EVERYTHING = Augmentation(crop_padding=2, flip=True, colour_jitter=0.4)


def images(channels: int = 3, batch: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 6, 5, channels), dtype=np.uint8)


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_a_function_of_its_arguments(channels: int) -> None:
    given = images(channels)
    first, again, other = (EVERYTHING(given, generator(*seed)) for seed in ((7, 1, 2), (7, 1, 2), (7, 1, 3)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(given, images(channels))
    assert (first.dtype, first.shape) == (given.dtype, given.shape)


def test_without_anything_to_do_it_does_nothing() -> None:
    np.testing.assert_array_equal(Augmentation()(images(), generator(1)), images())


def test_a_batch_of_no_images_stays_one() -> None:
    assert EVERYTHING(images(batch=0), generator(1)).shape == (0, 6, 5, 3)


def test_a_crop_is_the_image_moved_and_every_move_occurs() -> None:
    given, padding = images(batch=400), 1
    found = Augmentation(crop_padding=padding)(given, generator(1))
    padded = np.pad(given, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moves = [(top, left) for top in range(3) for left in range(3)]
    which = [
        [move for move in moves if (padded[row, move[0] : move[0] + 6, move[1] : move[1] + 5] == image).all()]
        for row, image in enumerate(found)
    ]
    assert all(len(matches) == 1 for matches in which)
    counts = [sum(matches == [move] for matches in which) for move in moves]
    assert min(counts) > 400 / 9 / 2


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    given = images(batch=400)
    found = Augmentation(flip=True)(given, generator(1))
    mirrored = (found == given[:, :, ::-1]).all((1, 2, 3))
    assert ((found == given).all((1, 2, 3)) ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_colours_change_as_pillow_changes_them() -> None:
    """Its three enhancements with the same factors; it rounds, and cuts off at 0 and 255, after each."""
    given, amount = 100 + images() // 8, 0.3
    found = Augmentation(colour_jitter=amount)(given, generator(3))
    factors = generator(3).uniform(1 - amount, 1 + amount, (3, len(given)))
    for image, changed, own in zip(given, found, factors.T, strict=True):
        expected = Image.fromarray(image)
        for kind, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), own, strict=True):
            expected = kind(expected).enhance(factor)
        assert np.abs(changed.astype(int) - np.asarray(expected).astype(int)).max() <= 3
    assert (found != given).any((1, 2, 3)).all()


def test_grey_images_have_no_saturation() -> None:
    flat = np.full((8, 4, 4, 1), 100, np.uint8)
    found = Augmentation(colour_jitter=0.3)(flat, generator(1))
    assert (found == found[:, :1, :1]).all()
    assert ((found >= 70) & (found <= 130)).all()
    assert len(np.unique(found)) > 4
