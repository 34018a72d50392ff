"""Hyperparameters shared by every model: the training recipe and the decoding defaults.

A model adds its own fields in a subclass next to it (see models/transformer_hparams.py). A named set is a function
that derives from a base, so that the difference between two sets *is* the definition of the second.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from t2tdeploy.decoding import Alpha, BeamSize, ExtraLength
from t2tdeploy.settings import Settings

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]

OptimizerName = Literal["adam", "adamw", "adafactor", "momentum", "sgd", "adagrad"]
_TAKES_WEIGHT_DECAY = ("adamw", "adafactor", "momentum", "sgd")


class HParams(Settings):
    """Training recipe and decoding defaults. Names follow Tensor2Tensor where it has them."""

    batch_size: Count = Field(
        4096,
        description="tokens per batch, padding included, of the longest text of an example; "
        "examples per batch where no feature is text",
    )
    max_length: Count = Field(
        256, description="longest training example in tokens; longer ones are counted and left out"
    )
    train_steps: Count = Field(100_000, description="optimizer steps of a whole run")
    accumulate_steps: Count = Field(1, description="batches whose gradients are added up for one optimizer step")

    optimizer: OptimizerName = Field("adam", description="the update rule")
    optimizer_adam_beta1: Share = Field(0.9, description="decay of the first moment (adam, adamw)")
    optimizer_adam_beta2: Share = Field(0.98, description="decay of the second moment (adam, adamw)")
    optimizer_adam_epsilon: float = Field(1e-9, gt=0, description="added to the root of the second moment")
    optimizer_momentum: Share = Field(0.9, description="momentum (momentum)")
    optimizer_nesterov: bool = Field(True, description="Nesterov's form of momentum")
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled weight decay (adamw, adafactor), or L2 penalty (momentum, sgd)"
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, description="largest global norm of the gradients; none: unclipped"
    )

    learning_rate_schedule: str = Field(
        "constant*linear_warmup*rsqrt_decay*rsqrt_hidden_size",
        description="product of named factors, see training/schedules.py",
    )
    learning_rate_constant: float = Field(2.0, gt=0, description="the factor `constant`")
    learning_rate_warmup_steps: Count = Field(8000, description="steps of `linear_warmup`, floor of `rsqrt_decay`")
    learning_rate_decay_steps: Count = Field(100_000, description="length of the decay factors after warmup, in steps")
    learning_rate_decay_rate: float = Field(1.0, gt=0, description="rate of `exp_decay` per decay_steps")

    label_smoothing: Share = Field(0.1, description="probability spread over the other labels in training")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of matrix products; weights stay float32. 16 bits are for GPUs, float16 scales the loss"
    )
    compile: bool = Field(False, description="run the training step through torch.compile")

    beam_size: BeamSize = Field(4, description="beams of the search")
    alpha: Alpha = Field(0.6, description="length penalty ((5 + n) / 6)^alpha (Wu et al. 2016)")
    extra_length: ExtraLength = Field(50, description="a target may be this many tokens longer than its source")

    @model_validator(mode="after")
    def _weight_decay_has_an_effect(self) -> Self:
        if self.weight_decay and self.optimizer not in _TAKES_WEIGHT_DECAY:
            choices = ", ".join(_TAKES_WEIGHT_DECAY)
            raise ValueError(f"optimizer = {self.optimizer} takes no weight_decay; those that do: {choices}")
        return self


class BasicHParams(HParams):
    """What a stack of layers needs, with a recipe for fixed outputs: the default of models of your own.

    Adam with its usual constants, a short warmup and no label smoothing, so that probabilities mean what they say.
    """

    hidden_size: Count = Field(256, description="width of embeddings and hidden layers")
    num_hidden_layers: Count = Field(2, description="hidden layers")
    dropout: Share = Field(0.0, description="dropout inside hidden layers")

    batch_size: Count = Field(128, description=HParams.model_fields["batch_size"].description)
    train_steps: Count = Field(1000, description="optimizer steps of a whole run")
    optimizer_adam_beta2: Share = Field(0.999, description="decay of the second moment (adam, adamw)")
    optimizer_adam_epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    learning_rate_schedule: str = Field(
        "constant*linear_warmup", description="product of named factors, see training/schedules.py"
    )
    learning_rate_constant: float = Field(1e-3, gt=0, description="the factor `constant`")
    learning_rate_warmup_steps: Count = Field(100, description="steps of `linear_warmup`, floor of `rsqrt_decay`")
    label_smoothing: Share = Field(0.0, description="probability spread over the other labels in training")
