"""A model that is quickly built and has all that a graph must tell apart: buffers that change, constants, frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2tdeploy.models.model import Model
from t2tdeploy.models.transformer_hparams import TransformerHParams
from tests.models.tiny import features

HPARAMS: TransformerHParams = TransformerHParams.create({"hidden_size": 8, "num_heads": 2, "dropout": 0.0})
VOCAB = 20


class Small(Model):
    """Mean of the source, batch normalization, a layer with dropout."""

    hparams_class = TransformerHParams

    def __init__(self, hparams: TransformerHParams = HPARAMS) -> None:
        torch.manual_seed(4)
        super().__init__(hparams, features(VOCAB))
        size = hparams.hidden_size
        self.inner = nn.Linear(size, size)
        self.norm = nn.BatchNorm1d(size)
        self.frozen = nn.Parameter(torch.full((size,), 0.5), requires_grad=False)
        self.register_buffer("ramp", torch.linspace(0.5, 1.5, size), persistent=False)
        self.dropout = nn.Dropout(hparams.dropout)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        mask = features["inputs_mask"].float().unsqueeze(-1)
        source = (features["inputs"] * mask).sum(1) / mask.sum(1)
        x = features["targets"] + source.unsqueeze(1)
        normalized = self.norm(x.flatten(0, 1)).view_as(x)
        hidden: Tensor = x + self.dropout(self.inner(normalized * self.ramp).tanh() * self.frozen)
        return hidden
