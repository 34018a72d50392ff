"""Hyperparameters and named sets of NBSVM (no torch)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from t2tdeploy.hparams import Count, HParams, Share
from t2tdeploy.registry import register_hparams


class NbsvmHParams(HParams):
    """Which n-grams, and a recipe that suits: Adam with a rate that falls to 0, little to learn, nothing smoothed."""

    min_ngram: Count = Field(2, le=16, description="ids of the shortest n-grams")
    max_ngram: Count = Field(6, le=16, description="ids of the longest n-grams")
    buckets: int = Field(2**18, ge=16, le=2**24, description="hashes that n-grams share")

    batch_size: Count = Field(8192, description=HParams.model_fields["batch_size"].description)
    max_length: Count = Field(4096, description=HParams.model_fields["max_length"].description)
    train_steps: Count = Field(400, description="optimizer steps of a whole run")
    optimizer_adam_epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    learning_rate_schedule: str = Field(
        "constant*linear_decay", description="product of named factors, see training/schedules.py"
    )
    learning_rate_constant: float = Field(0.02, gt=0, description="the factor `constant`")
    learning_rate_decay_steps: Count = Field(400, description="length of the decay factors after warmup, in steps")
    label_smoothing: Share = Field(0.0, description="probability spread over the other labels in training")

    @model_validator(mode="after")
    def _ngrams_have_a_range(self) -> Self:
        if self.min_ngram > self.max_ngram:
            raise ValueError(f"min_ngram = {self.min_ngram} is more than max_ngram = {self.max_ngram}")
        return self


@register_hparams
def nbsvm_bytes() -> NbsvmHParams:
    """Of 2 to 6 bytes, for a vocabulary of bytes: words, their parts, and short phrases."""
    return NbsvmHParams.create({})


@register_hparams
def nbsvm_pieces() -> NbsvmHParams:
    """Of 1 to 3 pieces, for a vocabulary of unigram or bpe."""
    return nbsvm_bytes().replace(min_ngram=1, max_ngram=3, batch_size=2048)
