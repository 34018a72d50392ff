"""Fully connected layers over all inputs (tensor2tensor/models/basic.py)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from t2tdeploy.features import FeatureSpec
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.layers import linear
from t2tdeploy.models.model import FIXED_OUTPUTS, Model
from t2tdeploy.registry import register_model


@register_model
class BasicFc(Model):
    """Flattens the inputs; then dense, dropout, ReLU, again and again.

    Of a text, which has no fixed size, it takes the mean of its embeddings.
    """

    default_hparams_set = "basic_fc_small"
    accepts: ClassVar = {"targets": FIXED_OUTPUTS}
    raw_numbers = True

    def __init__(self, hparams: BasicHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features)
        sizes = [self.flattened_size, *[hparams.hidden_size] * hparams.num_hidden_layers]
        layers: list[nn.Module] = []
        for input_size, output_size in pairwise(sizes):
            layers += [linear(input_size, output_size, bias=True), nn.Dropout(hparams.dropout), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, hidden]"""
        result: Tensor = self.layers(self.flattened(features))
        return result
