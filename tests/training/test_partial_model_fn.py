"""A model function may come with some of its arguments, or as an object that is called."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from t2tdeploy.models.model_fn import EstimatorSpec
from t2tdeploy.training.estimator_model import SOURCE
from tests.training.flowers import PARAMS, input_fn, make, tiny_fn


def scaled(*arguments: Any, scale: int) -> EstimatorSpec:
    features, labels, mode, _ = arguments
    return tiny_fn({name: x * scale for name, x in features.items()}, labels, mode, PARAMS)


class Called:
    def __call__(self, *arguments: Any) -> EstimatorSpec:
        return tiny_fn(*arguments[:3], PARAMS)


@pytest.mark.parametrize(
    ("model", "name"), [(functools.partial(functools.partial(scaled), scale=2), "scaled"), (Called(), "called")]
)
def test_it_trains_and_its_source_is_kept(tmp_path: Path, model: Any, name: str) -> None:
    estimator = make(tmp_path / "run", model).train(input_fn, steps=2)
    assert estimator.name == name
    assert "def scaled" in (tmp_path / "run" / SOURCE).read_text(encoding="utf-8")
