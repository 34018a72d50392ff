"""Named sets of the simple models for fixed outputs: fully connected layers, bags of embeddings (no torch)."""

from __future__ import annotations

from pydantic import Field

from t2tdeploy.hparams import BasicHParams, Share
from t2tdeploy.registry import register_hparams


@register_hparams
def basic_fc_small() -> BasicHParams:
    """Two layers of 256, batches of 128 examples (tensor2tensor/models/basic.py, but for the learning rate of Adam)."""
    return BasicHParams.create({"batch_size": 128, "hidden_size": 256, "num_hidden_layers": 2, "dropout": 0.0})


class BagHParams(BasicHParams):
    """A mean of embeddings and the layers behind it."""

    num_hidden_layers: int = Field(0, ge=0, description="hidden layers between the mean and the output")
    initial_scale: float = Field(1.0, gt=0, description="factor of the embeddings that training starts from")
    word_dropout: Share = Field(0.3, description="share of tokens that the mean leaves out in training")
    dropout: Share = Field(0.1, description="dropout of the mean and of hidden layers")
    batch_size: int = Field(2048, ge=1, description=BasicHParams.model_fields["batch_size"].description)


@register_hparams
def bag_of_embeddings_small() -> BagHParams:
    """Embeddings of 256 and nothing but the output layer."""
    return BagHParams.create({"hidden_size": 256})


@register_hparams
def bag_of_embeddings_deep() -> BagHParams:
    """The deep averaging network of Iyyer et al. 2015 for some thousand labelled sentences: one hidden layer, much
    dropout, a rate that falls to 0. Embeddings start near zero: rare words say nothing until they are learned."""
    return BagHParams.create(
        {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "initial_scale": 0.1,
            "word_dropout": 0.5,
            "dropout": 0.4,
            "batch_size": 2800,
            "train_steps": 480,
            "learning_rate_schedule": "constant*linear_warmup*linear_decay",
            "learning_rate_constant": 5e-3,
            "learning_rate_warmup_steps": 50,
            "learning_rate_decay_steps": 480,
        }
    )
