"""Embedded data divided into splits that have the classes in the same proportions, by scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from t2tdeploy.problems.problem import DataOptions


class StratifiedOptions(DataOptions):
    """How the examples are divided; each split has the classes in the same proportions."""

    test_share: float = Field(0.2, gt=0, lt=0.9, description="of the examples that are test")
    dev_share: float = Field(0.1, gt=0, lt=0.9, description="of the others that are dev")
    seed: int = Field(0, ge=0, description="another seed divides them in another way")


def stratified(labels: Any, options: StratifiedOptions) -> dict[str, npt.NDArray[np.int64]]:
    """Split -> indices of its examples, ascending."""
    from sklearn.model_selection import train_test_split

    labels, seed = np.asarray(labels), options.seed
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=options.test_share, random_state=seed, stratify=labels
    )
    train, dev = train_test_split(rest, test_size=options.dev_share, random_state=seed, stratify=labels[rest])
    return {"train": np.sort(train), "dev": np.sort(dev), "test": np.sort(test)}
