"""Problems whose samples are {"inputs": an image, "targets": the name of its class}."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from t2tdeploy.errors import CorruptFileError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.augmentation import Augmentation
from t2tdeploy.problems.batching import Batch
from t2tdeploy.problems.problem import DataOptions, Problem
from t2tdeploy.tokenizer import Tokenizer


class AugmentedImagesOptions(DataOptions):
    """What training does to images, for problems whose images we do not know."""

    crop_padding: int = Field(0, ge=0, le=64, description="training moves images by up to so many pixels")
    flip: bool = Field(False, description="training mirrors every other image, left to right")
    colour_jitter: float = Field(
        0.0, ge=0, lt=1, description="training changes brightness, contrast and saturation by up to this share"
    )

    def augmentation(self) -> Augmentation:
        """These options as a function of batches."""
        return Augmentation(self.crop_padding, self.flip, self.colour_jitter)


class PublishedImagesOptions(DataOptions):
    """Where the published files come from, and how much of train is dev."""

    not_of_the_data = frozenset({"mirror"})

    dev_examples: int = Field(5000, ge=1, description="the last so many of the published training images are dev")
    mirror: str | None = Field(
        None,
        pattern="^https?://",
        description="address of a folder with the published files, to download from instead; checksums hold there too",
    )

    def part(self, split: str, examples: int) -> slice:
        """Which of the `examples` of a file belong to `split`; at most half of those for training are dev."""
        first = examples - min(self.dev_examples, examples // 2)
        return {"train": slice(0, first), "dev": slice(first, None), "test": slice(None)}[split]


class ImageToClass(Problem):
    """Images of one size in one of several classes.

    Attributes:
        shape: (height, width, channels); channels is 1 (grey) or 3 (red, green, blue).
        classes: their names, by id.
        augmentation: what training does to images that leaves their classes true.
    """

    task = "classify"
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    augmentation: Augmentation = Augmentation()

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        del tokenizers
        return {
            "inputs": FeatureSpec("inputs", Modality.IMAGE, shape=self.shape),
            "targets": FeatureSpec("targets", Modality.CLASS_LABEL, classes=self.classes),
        }

    def augment(self, batch: Batch, generator: np.random.Generator) -> Batch:
        return {**batch, "inputs": self.augmentation(batch["inputs"], generator)}


def labelled(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], classes: Sequence[str], path: Path
) -> Iterator[dict[str, Any]]:
    """Samples of images [examples, height, width, channels] and labels [examples], which were read from `path`.

    Raises:
        CorruptFileError: a label is not the id of a class.
    """
    for image, label in zip(images, labels.tolist(), strict=True):
        if label >= len(classes):
            raise CorruptFileError(path, f"it has the label {label}; there are {len(classes)} classes")
        yield {"inputs": image, "targets": classes[label]}
