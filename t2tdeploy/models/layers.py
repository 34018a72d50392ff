"""Layers that are not attention: layer norm, feed-forward, timing signal, mean. They take sizes, never hparams."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LAYER_NORM_EPSILON = 1e-6


def layer_norm(hidden_size: int) -> nn.LayerNorm:
    """Layer normalization with Tensor2Tensor's epsilon."""
    return nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPSILON)


def linear(input_size: int, *output_sizes: int, bias: bool = False) -> nn.Linear:
    """A linear map onto the concatenation of `output_sizes`, each part initialized as a map of its own
    (Glorot uniform, Tensor2Tensor's `uniform_unit_scaling` with gain 1)."""
    layer = nn.Linear(input_size, sum(output_sizes), bias=bias)
    for part in torch.split(layer.weight.data, list(output_sizes)):
        nn.init.xavier_uniform_(part)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions where mask [batch, length] is True: x [batch, length, hidden] -> [batch, hidden];
    zeros where there is none."""
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class FeedForward(nn.Module):
    """Two linear maps with biases and a ReLU between them. [..., hidden] -> [..., hidden]"""

    def __init__(self, *, hidden_size: int, filter_size: int, dropout: float) -> None:
        super().__init__()
        self.inner = linear(hidden_size, filter_size, bias=True)
        self.outer = linear(filter_size, hidden_size, bias=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.outer(self.dropout(torch.relu(self.inner(x))))
        return result


class TimingSignal(nn.Module):
    """Sines and cosines of geometrically spaced wavelengths, 1 to 10 000 times 2π (Vaswani et al. 2017, 3.5).

    As in Tensor2Tensor, all sines stand before all cosines; the paper interleaves them.
    """

    rates: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        scales = hidden_size // 2
        rates = torch.exp(torch.arange(scales) * -(math.log(1e4) / max(scales - 1, 1)))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """positions [length] -> signal [length, hidden]"""
        angles = positions.to(self.rates.dtype)[:, None] * self.rates[None, :]
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
