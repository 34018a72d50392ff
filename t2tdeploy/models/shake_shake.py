"""Shake-shake regularization (Gastaldi 2017; tensor2tensor/models/shake_shake.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.convolutions import batch_norm, convolution, global_average, normalized, require_size
from t2tdeploy.models.image_hparams import ShakeShakeHParams
from t2tdeploy.models.model import FIXED_OUTPUTS, Model
from t2tdeploy.registry import register_model

_BITS = 16  # of a random share
_STAGES = 3

Mixing = Literal["shake", "even", "keep"]


class Shake(nn.Module):
    """Mixes two branches: in training with a random share for each image, another one for its gradient; else evenly.

    The random bits are drawn by dropout of ones. So whatever draws an engine's dropout masks and keeps their state does
    so for these, too, and the mixture is reproducible wherever dropout is.

    Args:
        forward: "shake" or "even".
        backward: "shake", "even", or "keep" for the share of the forward pass.
    """

    values: Tensor

    def __init__(self, forward: Mixing, backward: Mixing) -> None:
        super().__init__()
        self.forward_mixing, self.backward_mixing = forward, backward
        self.bits = nn.Dropout(0.5)
        # A bit that is kept comes as 2. The last half step makes the mean of all shares 1/2.
        self.register_buffer("values", 0.5 ** torch.arange(2, _BITS + 2).float(), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Both [batch, channels, height, width]."""
        if not self.training:
            return (first + second) / 2
        share = self._share(self.forward_mixing, first)
        if self.backward_mixing == "keep":
            return torch.lerp(second, first, share)
        seen = torch.lerp(second, first, share)
        learned = torch.lerp(second, first, self._share(self.backward_mixing, first))
        return learned + (seen - learned).detach()

    def _share(self, mixing: Mixing, like: Tensor) -> Tensor:
        """[batch, 1, 1, 1], uniform over the middles of 2^16 steps from 0 to 1."""
        if mixing == "even":
            return like.new_full((like.size(0), 1, 1, 1), 0.5)
        bits: Tensor = self.bits(like.new_ones(like.size(0), _BITS))
        shares = (bits * self.values).sum(1) + 0.5 ** (_BITS + 1)
        return shares.view(-1, 1, 1, 1).detach()


class ShakeBlock(nn.Module):
    """shortcut + a mixture of two branches ReLU, convolution, normalization, ReLU, convolution, normalization."""

    def __init__(self, input_size: int, output_size: int, *, stride: int, hparams: ShakeShakeHParams) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                normalized(input_size, output_size, 3, stride=stride),
                normalized(output_size, output_size, 3, relu=False),
            )
            for _ in range(2)
        )
        self.shake = Shake(hparams.forward_mixing, hparams.backward_mixing)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = HalvingShortcut(input_size, output_size)
        elif input_size != output_size:
            self.shortcut = normalized(input_size, output_size, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (branch(x) for branch in self.branches)
        result: Tensor = self.shortcut(x) + self.shake(first, second)
        return result


class HalvingShortcut(nn.Module):
    """Half of the channels see every other pixel, the others those to the lower right of them."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.here = convolution(input_size, output_size // 2, 1)
        self.beside = convolution(input_size, output_size - output_size // 2, 1)
        self.norm = batch_norm(output_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        beside = F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        halves = torch.cat([self.here(x[:, :, ::2, ::2]), self.beside(beside)], dim=1)
        result: Tensor = self.norm(halves)
        return result


@register_model
class ShakeShake(Model):
    """Three stages of two-branched residual blocks, for small images."""

    hparams_class = ShakeShakeHParams
    default_hparams_set = "shakeshake_small"
    accepts: ClassVar = {"inputs": (Modality.IMAGE,), "targets": FIXED_OUTPUTS}

    def __init__(self, hparams: ShakeShakeHParams, features: Mapping[str, FeatureSpec]) -> None:
        sizes = [hparams.hidden_size * 2**stage for stage in range(_STAGES)]
        super().__init__(hparams, features, body_size=sizes[-1])
        require_size(features["inputs"], 2 ** (_STAGES - 1), large_images=False)
        size = 16
        self.first = normalized(features["inputs"].shape[2], size, 3, relu=False)
        blocks = []
        for stage, output_size in enumerate(sizes):
            for place in range((hparams.num_hidden_layers - 2) // 6):
                stride = 2 if stage and not place else 1
                blocks.append(ShakeBlock(size, output_size, stride=stride, hparams=hparams))
                size = output_size
        self.blocks = nn.Sequential(*blocks)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, body_size]"""
        x: Tensor = self.blocks(self.first(features["inputs"]))
        return global_average(x.relu())
