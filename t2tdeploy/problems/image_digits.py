"""Handwritten digits of 8 × 8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998): nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from t2tdeploy.problems.augmentation import Augmentation
from t2tdeploy.problems.images import ImageToClass
from t2tdeploy.problems.stratified import StratifiedOptions, stratified
from t2tdeploy.progress import Reporter
from t2tdeploy.registry import register_problem


@register_problem
class ImageDigits(ImageToClass):
    """1797 handwritten digits of 8 × 8 pixels, embedded."""

    options_class = StratifiedOptions
    options: StratifiedOptions
    shape = (8, 8, 1)
    classes = tuple("0123456789")
    augmentation = Augmentation(crop_padding=1)

    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, Any]]:
        del source_dir, reporter  # nothing is read or fetched
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # they have 17 levels
        for place in stratified(digits.target, self.options)[split].tolist():
            yield {"inputs": images[place], "targets": self.classes[digits.target[place]]}
