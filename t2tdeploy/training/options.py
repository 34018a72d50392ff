"""What a training run may be told beyond the recipe in hparams."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from t2tdeploy.errors import UserError
from t2tdeploy.hparams import Count
from t2tdeploy.settings import Settings

Metric = Literal["bleu", "chrf", "loss", "accuracy", "f1", "rmse"]
METRICS: dict[str, tuple[Metric, ...]] = {  # task -> what is measured on dev, what decides unless told otherwise first
    "translate": ("bleu", "chrf", "loss", "accuracy"),
    "classify": ("accuracy", "f1", "loss"),
    "regress": ("rmse", "loss"),
}
LOWER_IS_BETTER = ("loss", "rmse")


class TrainOptions(Settings):
    """How often things happen, and when to stop. None of it changes what a step computes."""

    engine: Literal["auto", "ort", "torch"] = Field(
        "auto",
        description="what computes: onnxruntime, or torch alone; auto: ort, but torch for convolutions of images",
    )
    gradient_builder: Literal["auto", "portable", "onnxruntime-training"] = Field(
        "auto",
        description="what differentiates for engine ort, which a named one chooses, too; auto: what is installed",
    )
    eval_every_steps: Count = Field(1000, description="evaluate on dev, and save, after so many steps")
    save_every_steps: Count = Field(1000, description="save a checkpoint after so many steps")
    save_every_seconds: float | None = Field(None, gt=0, description="and when so much time has passed; none: do not")
    keep_last: Count = Field(8, description="checkpoints kept, beside the best")
    log_every_steps: Count = Field(100, description="steps between two points of the training curves")
    decode: bool = Field(True, description="translate dev by beam search at each evaluation, for BLEU and chrF")
    eval_sentences: int | None = Field(None, ge=1, description="dev sentences to translate; none: all")
    metric: Metric | None = Field(None, description="what makes a checkpoint the best; none: see METRICS")
    early_stopping_evals: int | None = Field(None, ge=1, description="stop after so many evaluations without gain")
    warm_start: Path | None = Field(None, description="run directory, checkpoint or .safetensors file to start from")

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Self:
        if self.metric in ("bleu", "chrf") and not self.decode:
            raise ValueError(f"metric = {self.metric} needs decode; without it: loss, accuracy")
        return self

    @model_validator(mode="after")
    def _builder_has_its_engine(self) -> Self:
        if self.engine == "torch" and self.gradient_builder != "auto":
            raise ValueError(f"gradient_builder = {self.gradient_builder} is of engine ort; engine = torch has none")
        return self

    def require_dev(self, splits: Collection[str]) -> None:
        """Checks that nothing is asked of evaluations where there is no dev split to evaluate on.

        Raises:
            UserError: something is.
        """
        asked = {name: getattr(self, name) for name in ("metric", "early_stopping_evals", "eval_sentences")}
        given = [f"{name} = {value}" for name, value in asked.items() if value is not None]
        if given and "dev" not in splits:
            raise UserError(
                f"{', '.join(given)}: the data have no dev split, and nothing is evaluated",
                help="leave it out, or generate the data with a dev split",
            )

    def deciding_metric(self, task: str) -> Metric:
        """The metric that makes a checkpoint the best one: of translations BLEU, or the loss if nothing is decoded; of
        classes the accuracy, of numbers the RMSE.

        Raises:
            UserError: the one that was asked for is not measured for this task.
        """
        if self.metric is None:
            return "loss" if task == "translate" and not self.decode else METRICS[task][0]
        if self.metric not in METRICS[task]:
            raise UserError(
                f"metric = {self.metric} is not measured for task {task}",
                help=f"valid choices: {', '.join(METRICS[task])}",
            )
        return self.metric
