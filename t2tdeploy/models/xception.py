"""Depthwise separable convolutions (Chollet 2017; tensor2tensor/models/xception.py).

Normalization is over the batch, as in the paper, so that it can be folded into convolutions at export; Tensor2Tensor's
is over the channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.convolutions import batch_norm, convolution, global_average, normalized
from t2tdeploy.models.image_hparams import XceptionHParams
from t2tdeploy.models.model import FIXED_OUTPUTS, Model
from t2tdeploy.registry import register_model

_LARGE = 200  # pixels of a side, from which on images are made smaller first (Tensor2Tensor's limit)
_ENTRY = (64, 128, 256)


def separable(input_size: int, output_size: int, kernel_size: int) -> nn.Sequential:
    """ReLU, a convolution of each channel by itself, one of 1 × 1 over all, batch normalization."""
    return nn.Sequential(
        nn.ReLU(),
        convolution(input_size, input_size, kernel_size, groups=input_size),
        convolution(input_size, output_size, 1),
        batch_norm(output_size),
    )


class SeparableBlock(nn.Module):
    """x + three separable convolutions, then dropout."""

    def __init__(self, size: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(*(separable(size, size, kernel_size) for _ in range(3)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(x + self.branch(x))
        return result


class EntryBlock(nn.Module):
    """Two separable convolutions and pooling to half the size, beside a convolution of stride 2."""

    def __init__(self, input_size: int, output_size: int, kernel_size: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            separable(input_size, output_size, kernel_size),
            separable(output_size, output_size, kernel_size),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.shortcut = normalized(input_size, output_size, 1, stride=2, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shortcut(x) + self.branch(x)
        return result


@register_model
class Xception(Model):
    """Residual blocks of separable convolutions; images of more than 200 pixels first go to a sixteenth of that."""

    hparams_class = XceptionHParams
    default_hparams_set = "xception_base"
    accepts: ClassVar = {"inputs": (Modality.IMAGE,), "targets": FIXED_OUTPUTS}

    def __init__(self, hparams: XceptionHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features)
        size, kernel = hparams.hidden_size, hparams.kernel_size
        height, _, channels = features["inputs"].shape
        if height > _LARGE:
            entry = [EntryBlock(before, after, kernel) for before, after in pairwise((*_ENTRY, size))]
            self.first = nn.Sequential(normalized(channels, 32, 3, stride=2), normalized(32, _ENTRY[0], 3), *entry)
        else:
            self.first = normalized(channels, size, 3, relu=False)
        self.blocks = nn.Sequential(
            *(SeparableBlock(size, kernel, hparams.dropout) for _ in range(hparams.num_hidden_layers))
        )

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, hidden]"""
        x: Tensor = self.blocks(self.first(features["inputs"]))
        return global_average(x.relu())
