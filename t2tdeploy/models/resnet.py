"""Residual networks (He et al. 2016; tensor2tensor/models/resnet.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.convolutions import first_layers, global_average, normalized, require_size
from t2tdeploy.models.image_hparams import ResnetHParams
from t2tdeploy.models.model import FIXED_OUTPUTS, Model
from t2tdeploy.registry import register_model

_WIDER = 4  # the output of a bottleneck block, compared with its inside


class ResidualBlock(nn.Module):
    """ReLU(shortcut + branch); the branch begins as nothing.

    The stride is that of the first 3 × 3 convolution (in a bottleneck block it is the second, as in Tensor2Tensor and
    torchvision; the paper's own code has it in the first, of 1 × 1).
    """

    def __init__(self, input_size: int, filter_size: int, *, bottleneck: bool, stride: int) -> None:
        super().__init__()
        self.output_size = filter_size * _WIDER if bottleneck else filter_size
        if bottleneck:
            self.branch = nn.Sequential(
                normalized(input_size, filter_size, 1),
                normalized(filter_size, filter_size, 3, stride=stride),
                normalized(filter_size, self.output_size, 1, zero=True, relu=False),
            )
        else:
            self.branch = nn.Sequential(
                normalized(input_size, filter_size, 3, stride=stride),
                normalized(filter_size, filter_size, 3, zero=True, relu=False),
            )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or input_size != self.output_size:
            self.shortcut = normalized(input_size, self.output_size, 1, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, input_size, height, width] -> [batch, output_size, height / stride, width / stride]"""
        result: Tensor = (self.shortcut(x) + self.branch(x)).relu()
        return result


@register_model
class Resnet(Model):
    """Stages of residual blocks, each but the first with half the height and width of the one before."""

    hparams_class = ResnetHParams
    default_hparams_set = "resnet_50"
    accepts: ClassVar = {"inputs": (Modality.IMAGE,), "targets": FIXED_OUTPUTS}

    def __init__(self, hparams: ResnetHParams, features: Mapping[str, FeatureSpec]) -> None:
        first, *filter_sizes = hparams.filter_sizes
        blocks: list[ResidualBlock] = []
        size = first
        for stage, (count, filter_size) in enumerate(zip(hparams.layer_sizes, filter_sizes, strict=True)):
            for place in range(count):
                stride = 2 if stage and not place else 1
                blocks.append(ResidualBlock(size, filter_size, bottleneck=hparams.bottleneck, stride=stride))
                size = blocks[-1].output_size
        super().__init__(hparams, features, body_size=size)
        image, shrinks = features["inputs"], 2 ** (len(hparams.layer_sizes) - 1) * (4 if hparams.large_images else 1)
        require_size(image, shrinks, large_images=hparams.large_images)
        self.first = first_layers(image.shape[2], first, large_images=hparams.large_images)
        self.blocks = nn.Sequential(*blocks)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, body_size]"""
        return global_average(self.blocks(self.first(features["inputs"])))
