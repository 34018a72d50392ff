"""Random changes to the images of a training batch that leave their labels true: crop, flip, colours.

A few lines of numpy on whole batches. Of the libraries for this, torchvision's wheels are each for one build of torch
and its transforms need torch, which problems do without; albumentations is not maintained any more, and its successor
is under the AGPL; Pillow changes one image at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's convert("L")


@dataclass(frozen=True)
class Augmentation:
    """What is done to every image, drawn anew for each.

    Args:
        crop_padding: the image is moved by up to so many pixels in each direction; black comes in (He et al. 2016).
        flip: every other image is mirrored, left to right.
        colour_jitter: brightness, contrast and, of colour images, saturation are each multiplied by a number from
            1 - colour_jitter to 1 + colour_jitter.
    """

    crop_padding: int = 0
    flip: bool = False
    colour_jitter: float = 0.0

    def __call__(self, images: Pixels, generator: np.random.Generator) -> Pixels:
        """New images [batch, height, width, channels]: a function of the arguments alone."""
        if self.crop_padding:
            images = _moved(images, self.crop_padding, generator)
        if self.flip:
            mirrored = generator.random(len(images)) < 0.5
            images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        if self.colour_jitter:
            images = _jittered(images, self.colour_jitter, generator)
        return images


def _moved(images: Pixels, padding: int, generator: np.random.Generator) -> Pixels:
    batch, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    top, left = generator.integers(0, 2 * padding, (2, batch), endpoint=True)
    rows = (top[:, None] + np.arange(height))[:, :, None]
    columns = (left[:, None] + np.arange(width))[:, None, :]
    moved: Pixels = padded[np.arange(batch)[:, None, None], rows, columns]
    return moved


def _jittered(images: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Each factor blends the image with black, with its mean grey, or with itself in grey, as Pillow's ImageEnhance."""
    batch, _, _, channels = images.shape
    brightness, contrast, saturation = generator.uniform(1 - amount, 1 + amount, (3, batch, 1, 1, 1)).astype(np.float32)
    values = images.astype(np.float32) * brightness
    grey = values @ _GREY if channels == 3 else values[..., 0]
    values = _blended(values, grey.mean((1, 2))[:, None, None, None], contrast)
    if channels == 3:
        values = _blended(values, (values @ _GREY)[..., None], saturation)
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _blended(
    values: npt.NDArray[np.float32], other: npt.NDArray[np.float32], share: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    return other + (values - other) * share
