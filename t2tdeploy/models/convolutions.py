"""What convolutional networks share: convolutions and their initialization, batch normalization, the first layers.

Images are [batch, channels, height, width].
"""

from __future__ import annotations

from torch import Tensor, nn

from t2tdeploy.errors import UserError
from t2tdeploy.features import FeatureSpec

BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.1, 1e-5  # as Tensor2Tensor's; in its words, a decay of 0.9


def convolution(
    input_size: int, output_size: int, kernel_size: int, *, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution that keeps the size of images, but for its stride; if `kernel_size` is even, it adds a pixel first.

    Weights are drawn from N(0, 2 / fan-out) (He et al. 2015), as those of ResNets are.
    """
    layer = nn.Conv2d(
        input_size, output_size, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=bias
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def batch_norm(channels: int, *, zero: bool = False) -> nn.BatchNorm2d:
    """Batch normalization (Ioffe and Szegedy 2015) without torch's counter of batches, which nothing reads.

    Args:
        zero: its scale begins at 0, so that the branch of a residual block that it ends begins as nothing
            (Goyal et al. 2017).
    """
    layer = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
    layer.register_buffer("num_batches_tracked", None)
    if zero:
        nn.init.zeros_(layer.weight)
    return layer


def normalized(
    input_size: int, output_size: int, kernel_size: int, *, stride: int = 1, zero: bool = False, relu: bool = True
) -> nn.Sequential:
    """Convolution, batch normalization and, if asked for, ReLU."""
    layers: list[nn.Module] = [
        convolution(input_size, output_size, kernel_size, stride=stride),
        batch_norm(output_size, zero=zero),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


def activated(input_size: int, output_size: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    """Batch normalization, ReLU, convolution: the order of pre-activation networks (He et al. 2016b)."""
    return nn.Sequential(
        batch_norm(input_size), nn.ReLU(), convolution(input_size, output_size, kernel_size, stride=stride)
    )


def first_layers(input_size: int, output_size: int, *, large_images: bool) -> nn.Sequential:
    """What images go through first: to a quarter of their size if they are large, else to the same."""
    if not large_images:
        return normalized(input_size, output_size, 3)
    return nn.Sequential(normalized(input_size, output_size, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1))


def require_size(image: FeatureSpec, shrinks: int, *, large_images: bool) -> None:
    """Checks that something is left of images whose sides become `shrinks` times as small.

    Of a single pixel of a single image, as the last batch of an epoch may be, there is no variance to normalize by.

    Raises:
        UserError: a single pixel is left, or none.
    """
    height, width = image.shape[:2]
    if -(-height // shrinks) * -(-width // shrinks) < 2:
        small = "--hparams large_images=false, " if large_images else ""
        raise UserError(
            f"images of {height} × {width} pixels are too small for this model, which makes their sides {shrinks} "
            "times as small",
            help=f"{small}fewer stages, or larger images",
        )


def global_average(x: Tensor) -> Tensor:
    """[batch, channels, height, width] -> [batch, channels]"""
    return x.mean((2, 3))
