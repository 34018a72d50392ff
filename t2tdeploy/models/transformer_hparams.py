"""The Transformer's hyperparameters and named sets, after tensor2tensor/models/transformer.py (no torch)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from t2tdeploy.hparams import Count, HParams, Share
from t2tdeploy.registry import register_hparams


class TransformerHParams(HParams):
    """Sizes and dropout rates of a pre-norm encoder-decoder Transformer (Vaswani et al. 2017)."""

    hidden_size: Count = Field(512, description="width of the residual stream")
    filter_size: Count = Field(2048, description="width inside the feed-forward layers")
    num_encoder_layers: Count = Field(6, description="layers of the encoder")
    num_decoder_layers: Count = Field(6, description="layers of the decoder")
    num_heads: Count = Field(8, description="attention heads; must divide hidden_size")
    dropout: Share = Field(0.1, description="dropout of embeddings and of every layer's output")
    attention_dropout: Share = Field(0.1, description="dropout of attention weights")
    relu_dropout: Share = Field(0.1, description="dropout inside the feed-forward layers")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads = {self.num_heads} does not divide hidden_size = {self.hidden_size}")
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size = {self.hidden_size} must be even (timing signal: sines and cosines)")
        return self


@register_hparams
def transformer_base() -> TransformerHParams:
    """The paper's base model, for several GPUs (4096 tokens on each of 8); 61 M parameters with 37 000 words."""
    return TransformerHParams.create({"optimizer_adam_beta2": 0.997, "batch_size": 4096})


@register_hparams
def transformer_base_single_gpu() -> TransformerHParams:
    """Base for one GPU: smaller batch, gentler learning rate."""
    return transformer_base().replace(
        batch_size=1024,
        learning_rate_schedule="constant*linear_warmup*rsqrt_decay",
        learning_rate_constant=0.1,
        learning_rate_warmup_steps=16000,
    )


@register_hparams
def transformer_big() -> TransformerHParams:
    """The paper's big model; 210 M parameters with 37 000 words."""
    return transformer_base().replace(hidden_size=1024, filter_size=4096, num_heads=16, batch_size=2048, dropout=0.3)


@register_hparams
def transformer_small() -> TransformerHParams:
    """Two layers of 256: corpora of some hundred thousand sentences, or a CPU."""
    return transformer_base().replace(
        hidden_size=256, filter_size=1024, num_heads=4, num_encoder_layers=2, num_decoder_layers=2
    )


@register_hparams
def transformer_tiny() -> TransformerHParams:
    """Two layers of 128: experiments, tests, toy tasks."""
    return transformer_base().replace(
        hidden_size=128, filter_size=512, num_heads=4, num_encoder_layers=2, num_decoder_layers=2
    )


@register_hparams
def transformer_multi30k() -> TransformerHParams:
    """Three layers of 256, small batches, a learning rate that ends at 0: 29 000 short sentences, under an hour on two
    CPU cores."""
    return transformer_small().replace(
        num_encoder_layers=3,
        num_decoder_layers=3,
        filter_size=512,
        batch_size=2048,
        max_length=100,
        dropout=0.2,
        attention_dropout=0.0,
        relu_dropout=0.0,
        optimizer_adam_beta2=0.98,
        learning_rate_schedule="constant*linear_warmup*rsqrt_decay*rsqrt_hidden_size*linear_decay",
        learning_rate_constant=1.0,
        learning_rate_warmup_steps=800,
        learning_rate_decay_steps=1600,
        train_steps=3200,
    )


@register_hparams
def transformer_encoder_tiny() -> TransformerHParams:
    """Two encoder layers of 128 for a label of a text: experiments, tests, a few thousand examples. The decoder's
    fields have no effect, nor have those of any other set when it is given to transformer_encoder."""
    return transformer_tiny().replace(
        label_smoothing=0.0,
        optimizer_adam_beta2=0.98,
        learning_rate_schedule="constant*linear_warmup*rsqrt_decay",
        learning_rate_constant=0.02,
        learning_rate_warmup_steps=400,
        train_steps=2000,
    )


@register_hparams
def transformer_encoder_small() -> TransformerHParams:
    """Four encoder layers of 256 for a label of a text: some ten thousand examples and more."""
    return transformer_encoder_tiny().replace(
        hidden_size=256,
        filter_size=1024,
        num_encoder_layers=4,
        learning_rate_constant=0.01,
        learning_rate_warmup_steps=1000,
        train_steps=10_000,
    )
