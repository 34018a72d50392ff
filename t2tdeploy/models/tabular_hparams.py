"""Hyperparameters and named sets of the models of tables, after Estimator's premade ones (no torch).

Estimator trains linear models by FTRL-proximal (McMahan et al. 2013), of which there is none here: without its L1 and
L2 terms, which are off unless asked for, it adapts each weight's rate as Adagrad does, and Adagrad takes its place.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from t2tdeploy.hparams import Count, HParams, OptimizerName, Share
from t2tdeploy.registry import register_hparams

ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "elu": "ELU", "gelu": "GELU", "silu": "SiLU"}
"""Name -> class of torch.nn."""


class LinearHParams(HParams):
    """The recipe of models of tables: Adagrad with a constant rate, small batches, nothing smoothed."""

    batch_size: Count = Field(128, description=HParams.model_fields["batch_size"].description)
    train_steps: Count = Field(1000, description="optimizer steps of a whole run")
    optimizer: OptimizerName = Field("adagrad", description="the update rule")
    learning_rate_schedule: str = Field("constant", description="product of named factors, see training/schedules.py")
    learning_rate_constant: float = Field(0.2, gt=0, description="the factor `constant`")
    label_smoothing: Share = Field(0.0, description="probability spread over the other labels in training")


class DnnHParams(LinearHParams):
    """What fully connected layers need."""

    hidden_units: tuple[Count, ...] = Field((100, 50), description="width of each hidden layer")
    activation: Literal["relu", "tanh", "elu", "gelu", "silu"] = Field("relu", description="behind each hidden layer")
    dropout: Share = Field(0.0, description="dropout of each hidden layer")
    learning_rate_constant: float = Field(0.05, gt=0, description="the factor `constant`")


@register_hparams
def dnn_small() -> DnnHParams:
    """Layers of 100 and 50 by Adagrad at 0.05, Estimator's rate."""
    return DnnHParams.create({})


@register_hparams
def dnn_iris() -> DnnHParams:
    """The tutorial's model: two layers of 10 by Adagrad at 0.1."""
    return dnn_small().replace(hidden_units=(10, 10), learning_rate_constant=0.1, batch_size=32, train_steps=500)


@register_hparams
def dnn_adam() -> DnnHParams:
    """Layers of 256 and 128 by Adam, with dropout: tables of many thousand rows."""
    return dnn_small().replace(
        hidden_units=(256, 128),
        dropout=0.1,
        batch_size=256,
        train_steps=5000,
        optimizer="adam",
        optimizer_adam_beta2=0.999,
        optimizer_adam_epsilon=1e-8,
        learning_rate_schedule="constant*linear_warmup",
        learning_rate_constant=1e-3,
        learning_rate_warmup_steps=100,
    )


@register_hparams
def linear_adagrad() -> LinearHParams:
    """Adagrad at 0.2, where Estimator has FTRL at most at that rate."""
    return LinearHParams.create({})


@register_hparams
def wide_and_deep_small() -> DnnHParams:
    """Layers of 100 and 50 beside the linear part, both by Adagrad at 0.05; Estimator has FTRL for the linear part."""
    return DnnHParams.create({})


@register_hparams
def baseline_adagrad() -> LinearHParams:
    """A bias by Adagrad."""
    return LinearHParams.create({"learning_rate_constant": 0.3, "train_steps": 300})
