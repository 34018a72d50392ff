"""Handwritten digits of 8 × 8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998): nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from t2tdeploy.problems.augmentation import Augmentation
from t2tdeploy.problems.images import ImageToClass
from t2tdeploy.problems.problem import DataOptions
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem


class ImageDigitsOptions(DataOptions):
    """How the images are divided; each split has the classes in the same proportions."""

    test_share: float = Field(0.2, gt=0, lt=0.9, description="of the images that are test")
    dev_share: float = Field(0.1, gt=0, lt=0.9, description="of the others that are dev")
    seed: int = Field(0, ge=0, description="another seed divides them in another way")


@register_problem
class ImageDigits(ImageToClass):
    """1797 handwritten digits of 8 × 8 pixels, embedded."""

    options_class = ImageDigitsOptions
    options: ImageDigitsOptions
    shape = (8, 8, 1)
    classes = tuple("0123456789")
    augmentation = Augmentation(crop_padding=1)

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        del source_dir, reporter  # nothing is read or fetched
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # they have 17 levels
        for place in self._places(digits.target)[split]:
            yield {"inputs": images[place], "targets": self.classes[digits.target[place]]}

    def _places(self, labels: Any) -> dict[str, list[int]]:
        """Split -> which images are in it, in ascending order."""
        from sklearn.model_selection import train_test_split

        options = self.options
        rest, test = train_test_split(
            np.arange(len(labels)), test_size=options.test_share, random_state=options.seed, stratify=labels
        )
        train, dev = train_test_split(
            rest, test_size=options.dev_share, random_state=options.seed, stratify=labels[rest]
        )
        return {"train": sorted(train.tolist()), "dev": sorted(dev.tolist()), "test": sorted(test.tolist())}
