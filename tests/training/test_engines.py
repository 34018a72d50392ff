"""Engines by name."""

from __future__ import annotations

import pytest

from t2tdeploy.errors import UnknownNameError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.resnet import Resnet
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.progress import SilentReporter
from t2tdeploy.registry import hparams_sets
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.estimator_options import RunConfig
from t2tdeploy.training.options import TrainOptions
from t2tdeploy.training.ort_engine import OrtEngine
from t2tdeploy.training.torch_engine import TorchEngine

from .conftest import NO_DROPOUT, TINY


def test_engines_are_made_by_name(data: ProblemData) -> None:
    assert isinstance(make_engine("torch", Transformer(TINY, data.features), TINY), TorchEngine)
    with pytest.raises(UnknownNameError, match="engine 'troch'") as error:
        make_engine("troch", Transformer(TINY, data.features), TINY)
    assert error.value.nearest == "torch"


def test_convolutions_of_images_are_computed_by_torch_unless_told_otherwise(data: ProblemData) -> None:
    heard: list[str] = []

    class Listener(SilentReporter):
        def message(self, text: str) -> None:
            heard.append(text)

    hparams = hparams_sets.get("resnet_digits")()
    features = {
        "inputs": FeatureSpec("inputs", Modality.IMAGE, shape=(8, 8, 1)),
        "targets": FeatureSpec("targets", Modality.CLASS_LABEL, classes=("a", "b")),
    }
    assert isinstance(make_engine("auto", Resnet(hparams, features), hparams, reporter=Listener()), TorchEngine)
    assert "--engine ort" in heard.pop()
    built = make_engine("auto", Resnet(hparams, features), hparams, gradient_builder="portable", reporter=Listener())
    assert isinstance(built, OrtEngine), "torch has no use for a gradient builder"
    hparams = TINY.replace(**NO_DROPOUT)
    assert isinstance(make_engine("auto", Transformer(hparams, data.features), hparams, reporter=Listener()), OrtEngine)
    assert not any("engine torch" in text for text in heard)
    assert TrainOptions().engine == RunConfig().engine == "auto"
