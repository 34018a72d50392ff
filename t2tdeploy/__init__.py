"""Train sequence models, export them to one ONNX graph with beam search inside, and serve them over gRPC."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2tdeploy.api import load as load
    from t2tdeploy.models.model_fn import EstimatorSpec as EstimatorSpec
    from t2tdeploy.problems.input_functions import input_fn as input_fn
    from t2tdeploy.training.estimator import Estimator as Estimator
    from t2tdeploy.training.estimator_options import EvalSpec as EvalSpec
    from t2tdeploy.training.estimator_options import RunConfig as RunConfig
    from t2tdeploy.training.estimator_options import TrainSpec as TrainSpec

__version__ = "0.1.0"

_OFFERED = {  # name -> where it is defined
    "load": "api",
    "Estimator": "training.estimator",
    "EstimatorSpec": "models.model_fn",
    "EvalSpec": "training.estimator_options",
    "RunConfig": "training.estimator_options",
    "TrainSpec": "training.estimator_options",
    "input_fn": "problems.input_functions",
}


def __getattr__(name: str) -> Any:
    """What is offered, imported when first used: the package itself loads nothing."""
    if name in _OFFERED:
        return getattr(importlib.import_module(f"t2tdeploy.{_OFFERED[name]}"), name)
    raise AttributeError(f"module 't2tdeploy' has no attribute '{name}'")
