"""A plain stack of convolutions, pooling and dense layers, as of tutorials and of Krizhevsky et al. 2012."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from t2tdeploy.errors import UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.convolutions import convolution
from t2tdeploy.models.image_hparams import AlexnetHParams
from t2tdeploy.models.layers import linear
from t2tdeploy.models.model import FIXED_OUTPUTS, Model
from t2tdeploy.registry import register_model


@register_model
class Alexnet(Model):
    """Convolutions with ReLU, some with max pooling behind them; dense layers with ReLU and dropout."""

    hparams_class = AlexnetHParams
    default_hparams_set = "alexnet_small"
    accepts: ClassVar = {"inputs": (Modality.IMAGE,), "targets": FIXED_OUTPUTS}

    def __init__(self, hparams: AlexnetHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features, body_size=hparams.dense_sizes[-1])
        height, width, size = features["inputs"].shape
        layers: list[nn.Module] = []
        shapes = zip(hparams.filter_sizes, hparams.kernel_sizes, hparams.strides, hparams.pooled, strict=True)
        for output_size, kernel_size, stride, pooled in shapes:
            layers += [convolution(size, output_size, kernel_size, stride=stride, bias=True), nn.ReLU()]
            # Of nothing it stays nothing; else an even kernel has a place more, see `convolution`.
            height, width = (side and (side - kernel_size % 2) // stride + 1 for side in (height, width))
            size = output_size
            if pooled:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        if not height * width:
            raise UserError(
                f"images of {' × '.join(map(str, features['inputs'].shape[:2]))} pixels are too small for alexnet with "
                f"these strides and {sum(hparams.pooled)} poolings: nothing is left of them",
                help="pool less often, e.g. --hparams pooled=[true,false], or make the images larger",
            )
        self.convolutions = nn.Sequential(*layers)
        dense: list[nn.Module] = []
        size *= height * width
        for output_size in hparams.dense_sizes:
            dense += [linear(size, output_size, bias=True), nn.ReLU(), nn.Dropout(hparams.dropout)]
            size = output_size
        self.dense = nn.Sequential(*dense)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, body_size]"""
        x: Tensor = self.dense(self.convolutions(features["inputs"]).flatten(1))
        return x
