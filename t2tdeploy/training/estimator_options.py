"""Settings of an Estimator: how it runs, and what `train_and_evaluate` does. Names follow tf.estimator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from t2tdeploy.hparams import Count
from t2tdeploy.problems.input_functions import InputFunction
from t2tdeploy.settings import Settings
from t2tdeploy.training.hooks import Hook
from t2tdeploy.training.options import Metric, TrainOptions

_NEVER = 2**62


class RunConfig(Settings):
    """How an Estimator runs. None of it but the seed changes what a step computes."""

    seed: int = Field(0, ge=0, le=2**64 - 1, description="of parameters, dropout and the order of examples")
    engine: Literal["auto", "ort", "torch"] = Field(
        "auto", description="what trains: onnxruntime, or torch alone; auto: ort, but torch for convolutions of images"
    )
    save_checkpoints_steps: int | None = Field(
        None, ge=1, description="save after so many steps; none: by the clock alone, and at the end"
    )
    save_checkpoints_secs: float | None = Field(600.0, gt=0, description="save after so many seconds; none: do not")
    keep_checkpoint_max: Count = Field(5, description="checkpoints kept, beside the best")
    log_step_count_steps: Count = Field(100, description="steps between two log lines")
    save_summary_steps: Count = Field(100, description="steps between two points of the curves")

    def train_options(self, spec: EvalSpec | None, warm_start: Path | None) -> TrainOptions:
        """What the trainer is told. It writes log lines and points of curves together, often enough for both."""
        save = self.save_checkpoints_steps or _NEVER
        return TrainOptions.create(
            {
                "engine": self.engine,
                "save_every_steps": save,
                "save_every_seconds": self.save_checkpoints_secs,
                "keep_last": self.keep_checkpoint_max,
                "log_every_steps": math.gcd(self.log_step_count_steps, self.save_summary_steps),
                "eval_every_steps": spec.every_steps if spec else save,
                "metric": spec.metric if spec else None,
                "early_stopping_evals": spec.early_stopping_evals if spec else None,
                "warm_start": warm_start,
            }
        )


@dataclass(frozen=True)
class TrainSpec:
    """What `train_and_evaluate` trains on.

    Args:
        max_steps: of the whole run; None: train_steps of the hyperparameters.
        hooks: see `training.hooks`.
    """

    input_fn: InputFunction
    max_steps: int | None = None
    hooks: tuple[Hook, ...] = ()


@dataclass(frozen=True)
class EvalSpec:
    """What `train_and_evaluate` evaluates on, and what comes of it.

    Args:
        steps: batches of the input function that are evaluated; None: all.
        every_steps: training steps between two evaluations; there is one at the end too.
        metric: what makes a checkpoint the best: accuracy, f1 or loss of classes, rmse or loss of numbers; None: the
            first of these.
        early_stopping_evals: ends training after so many evaluations without a better one; None: never.
        export_to: where the best checkpoint is written as a bundle when training has ended, see `export_bundle`; a
            bundle that is there is replaced.
    """

    input_fn: InputFunction
    steps: int | None = None
    every_steps: int = 100
    metric: Metric | None = None
    early_stopping_evals: int | None = None
    export_to: str | Path | None = None
