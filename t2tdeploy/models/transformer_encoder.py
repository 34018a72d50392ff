"""The encoder of the Transformer for one label, or numbers, of a text (Tensor2Tensor's transformer_encoder)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.attention import padding_bias
from t2tdeploy.models.layers import TimingSignal, layer_norm
from t2tdeploy.models.model import FIXED_OUTPUTS, Model
from t2tdeploy.models.transformer import EncoderLayer
from t2tdeploy.models.transformer_hparams import TransformerHParams
from t2tdeploy.registry import register_model


@register_model
class TransformerEncoder(Model):
    """Pre-norm encoder; the mean over the real tokens goes into the output layer.

    Fields of the hparams that are the decoder's or the search's have no effect.
    """

    hparams_class = TransformerHParams
    default_hparams_set = "transformer_encoder_tiny"
    independent_rows = True
    accepts: ClassVar = {"inputs": (Modality.SYMBOL,), "targets": FIXED_OUTPUTS}

    def __init__(self, hparams: TransformerHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features)
        self.timing = TimingSignal(hparams.hidden_size)
        self.encoder = nn.ModuleList(
            EncoderLayer(
                hidden_size=hparams.hidden_size,
                filter_size=hparams.filter_size,
                heads=hparams.num_heads,
                dropout=hparams.dropout,
                attention_dropout=hparams.attention_dropout,
                relu_dropout=hparams.relu_dropout,
            )
            for _ in range(hparams.num_encoder_layers)
        )
        self.encoder_norm = layer_norm(hparams.hidden_size)
        self.dropout = nn.Dropout(hparams.dropout)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, length, hidden]"""
        x, bias = features["inputs"], padding_bias(features["inputs_mask"])
        x = self.dropout(x + self.timing(torch.arange(x.size(1), device=x.device)))
        for layer in self.encoder:
            x = layer(x, bias)
        result: Tensor = self.encoder_norm(x)
        return result
