"""Flowers that can be told apart, mostly, and estimators that learn to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import t2tdeploy
from t2tdeploy.features import FeatureSpec
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.model import Model
from t2tdeploy.models.model_fn import EstimatorSpec, Mode, dense, dropout, input_layer, layer
from t2tdeploy.training.estimator import Estimator

HPARAMS = {"batch_size": 16, "learning_rate_constant": 0.02, "hidden_size": 8, "learning_rate_warmup_steps": 10}
PARAMS = {"units": 8, "dropout": 0.1}
TORCH = t2tdeploy.RunConfig(engine="torch", save_summary_steps=10, log_step_count_steps=10)


def flowers(count: int = 90, seed: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """Two measures and a colour of three kinds that can be told apart, mostly."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 3, count)
    colours = np.array(["red", "blue", "white"])[
        np.where(random.random(count) < 0.8, kinds, random.integers(0, 3, count))
    ]
    size = 100.0 + 5 * kinds + random.normal(size=count)
    return {"size": size, "petal width (cm)": random.normal(size=count), "colour": colours}, kinds


def input_fn() -> tuple[dict[str, Any], np.ndarray]:
    return flowers()


def held_out() -> tuple[dict[str, Any], np.ndarray]:
    return flowers(40, seed=1)


class TinyFc(Model):
    """One hidden layer."""

    def __init__(self, hparams: BasicHParams, features: dict[str, FeatureSpec]) -> None:
        super().__init__(hparams, features)
        self.hidden = nn.Sequential(nn.Linear(self.flattened_size, hparams.hidden_size), nn.ReLU(), nn.Dropout(0.1))

    def body(self, features: dict[str, Tensor]) -> Tensor:
        hidden: Tensor = self.hidden(self.flattened(features))
        return hidden


def tiny_fn(features: dict[str, Tensor], labels: Tensor | None, mode: Mode, params: dict[str, Any]) -> EstimatorSpec:
    """The same as a function, with a batch normalisation and a prediction of its own."""
    hidden = torch.relu(
        layer("norm", lambda: nn.BatchNorm1d(params["units"]))(dense(input_layer(features), params["units"]))
    )
    logits = dense(dropout(hidden, params["dropout"]), 3, name="logits")
    loss = None if labels is None else F.cross_entropy(logits, labels)
    right = {"share_right": lambda truth, found: float((truth == found).mean())}
    return EstimatorSpec({"logits": logits, "hidden": hidden}, loss, metrics=right)


def make(path: Path | None, model: Any = TinyFc, **more: Any) -> Estimator:
    params = {"params": PARAMS} if model is tiny_fn else {}
    return Estimator(model, path, **{"config": TORCH, "hparams": HPARAMS, **params, **more})
