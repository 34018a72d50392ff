"""The mean of a text's embeddings: fast, and hard to beat where little text is labelled.

Without hidden layers it is fastText's classifier (Joulin et al. 2017), with them the deep averaging network of Iyyer
et al. 2015, whose word dropout it has in both cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.basic_hparams import BagHParams
from t2tdeploy.models.layers import linear
from t2tdeploy.models.modalities import SymbolModality
from t2tdeploy.models.model import FIXED_OUTPUTS, Model
from t2tdeploy.registry import register_model


@register_model
class BagOfEmbeddings(Model):
    """Mean over the tokens, in training over those that word dropout leaves; then hidden layers, if any."""

    hparams_class = BagHParams
    default_hparams_set = "bag_of_embeddings_small"
    accepts: ClassVar = {"inputs": (Modality.SYMBOL,), "targets": FIXED_OUTPUTS}

    def __init__(self, hparams: BagHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features)
        embedding = self.modality("inputs")
        assert isinstance(embedding, SymbolModality)
        with torch.no_grad():
            embedding.weight.mul_(hparams.initial_scale)
        self.word_dropout = nn.Dropout(hparams.word_dropout)
        self.dropout = nn.Dropout(hparams.dropout)
        self.layers = nn.ModuleList(
            linear(hparams.hidden_size, hparams.hidden_size, bias=True) for _ in range(hparams.num_hidden_layers)
        )

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, hidden]"""
        # Dropout scales what it keeps, here the sum above and the count below alike.
        weight = self.word_dropout(features["inputs_mask"].unsqueeze(-1).float())
        x: Tensor = self.dropout((features["inputs"] * weight).sum(1) / weight.sum(1).clamp(min=1.0))
        for layer in self.layers:
            x = self.dropout(layer(x).relu())
        return x
