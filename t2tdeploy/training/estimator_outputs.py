"""What an Estimator says of examples: logits or values as `predict` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.model import Model
from t2tdeploy.models.model_fn import FunctionModel
from t2tdeploy.training.parameters import tensors_from

Prediction = dict[str, Any]


def outputs(model: Model, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All predictions of a batch, by name."""
    key = "predictions" if model.task == "regress" else "logits"
    tensors = tensors_from(batch, next(model.parameters()).device)
    with torch.inference_mode():
        found = model.predictions(tensors) if isinstance(model, FunctionModel) else {}
        found[key] = found[key].reshape(-1, *model.output_shape) if key in found else model(tensors)
    return {name: (x.float() if x.is_floating_point() else x).numpy() for name, x in found.items()}


def prediction(found: Prediction, spec: FeatureSpec) -> Prediction:
    """What `Estimator.predict` yields of an example, of its logits or values."""
    if spec.modality is Modality.REAL:
        return {**found, "predictions": np.atleast_1d(found["predictions"])}
    logits = found["logits"].astype(np.float64)
    if spec.modality is Modality.MULTI_LABEL:
        probabilities = 1.0 / (1.0 + np.exp(-logits))
        ids = np.flatnonzero(logits > 0)
    else:
        powers = np.exp(logits - logits.max())
        probabilities, ids = powers / powers.sum(), np.array([logits.argmax()])
    names = np.array([spec.classes[number] for number in ids], dtype=object)
    return {**found, "class_ids": ids, "classes": names, "probabilities": probabilities.astype(np.float32)}


def chosen(logits: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """What metrics of a model function are given as predictions."""
    if spec.modality is Modality.CLASS_LABEL:
        ids: np.ndarray = logits.argmax(-1)
        return ids
    return (logits > 0).astype(np.float32) if spec.modality is Modality.MULTI_LABEL else logits
