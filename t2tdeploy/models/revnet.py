"""Reversible residual networks (Gomez et al. 2017; tensor2tensor/models/revnet.py).

Between stages, activations are computed from those that follow them, so that training keeps those of one layer instead
of all. Engine torch does so; a training graph, where memory is what the graph keeps, is differentiated as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.convolutions import activated, batch_norm, convolution, first_layers, global_average, require_size
from t2tdeploy.models.image_hparams import RevnetHParams
from t2tdeploy.models.model import FIXED_OUTPUTS, Model
from t2tdeploy.registry import register_model

_WIDER = 4  # the output of a bottleneck function, compared with its inside

Halves = tuple[Tensor, Tensor]


def residual(input_size: int, filter_size: int, *, bottleneck: bool, stride: int = 1) -> nn.Sequential:
    """The function of one half that is added to the other."""
    if not bottleneck:
        return nn.Sequential(
            activated(input_size, filter_size, 3, stride=stride), activated(filter_size, filter_size, 3)
        )
    return nn.Sequential(
        activated(input_size, filter_size, 1),
        activated(filter_size, filter_size, 3, stride=stride),
        activated(filter_size, filter_size * _WIDER, 1),
    )


class ReversibleLayer(nn.Module):
    """y1 = x1 + f(x2), y2 = x2 + g(y1); so x2 = y2 - g(y1), x1 = y1 - f(x2)."""

    def __init__(self, size: int, filter_size: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.f = residual(size, filter_size, bottleneck=bottleneck)
        self.g = residual(size, filter_size, bottleneck=bottleneck)

    def forward(self, x1: Tensor, x2: Tensor) -> Halves:
        """Halves of the channels, [batch, size, height, width] each."""
        y1 = x1 + self.f(x2)
        return y1, x2 + self.g(y1)

    def reverse(self, y: Halves, gradients: Halves) -> tuple[Halves, Halves, list[Tensor | None]]:
        """From what `forward` returned, and the loss's gradients to it, what it was given and the gradients to that.

        Returns:
            x1 and x2; their gradients; those of `parameters()`, in their order.
        """
        (y1, y2), (g1, g2) = y, gradients
        g_of_y1, to_y1, *of_g = _gradients(self.g, y1, g2)
        x2, g1 = y2 - g_of_y1, g1 + to_y1
        f_of_x2, to_x2, *of_f = _gradients(self.f, x2, g1)
        return (y1 - f_of_x2, x2), (g1, g2 + to_x2), [*of_f, *of_g]


def _gradients(function: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """function(x); the gradient to x; those to its parameters."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        result = function(x)
    found = torch.autograd.grad(result, [x, *function.parameters()], gradient)
    return result.detach(), *found


class ReversibleLayers(nn.Module):
    """Reversible layers one after the other.

    Args:
        reversible: keep only what the last returns, where autograd is torch's own.
    """

    def __init__(self, layers: Sequence[ReversibleLayer], *, reversible: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.reversible = reversible

    def forward(self, x1: Tensor, x2: Tensor) -> Halves:
        """Halves of the channels."""
        # A graph that is traced would get the forward pass of the function below, but not its backward pass.
        if self.reversible and len(self.layers) and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found: Halves = _Reversible.apply(self, x1, x2, *self.parameters())  # type: ignore[no-untyped-call]
            return found
        for layer in self.layers:
            x1, x2 = layer(x1, x2)
        return x1, x2


class _Reversible(torch.autograd.Function):
    """The layers as one operator, which keeps its results and nothing of the way to them."""

    @staticmethod
    def forward(ctx: Any, layers: ReversibleLayers, x1: Tensor, x2: Tensor, *parameters: Tensor) -> Halves:
        del parameters  # arguments, so that autograd asks for their gradients
        for layer in layers.layers:
            x1, x2 = layer(x1, x2)
        ctx.layers = layers
        ctx.autocast = torch.is_autocast_enabled(x1.device.type), torch.get_autocast_dtype(x1.device.type)
        ctx.save_for_backward(x1, x2)
        return x1, x2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y1, y2 = ctx.saved_tensors
        g1, g2 = gradients
        enabled, dtype = ctx.autocast
        of_parameters: list[Tensor | None] = []
        with torch.autocast(y1.device.type, dtype=dtype, enabled=enabled), _statistics_kept(ctx.layers):
            for layer in reversed(ctx.layers.layers):
                (y1, y2), (g1, g2), of_layer = layer.reverse((y1, y2), (g1, g2))
                of_parameters = [*of_layer, *of_parameters]
        return None, g1, g2, *of_parameters


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """The running statistics of batch normalization have seen these batches already, and do not move in here."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class Stage(nn.Module):
    """A layer that changes channels and size, which cannot be reversed, then reversible ones."""

    def __init__(self, input_size: int, filter_size: int, *, layers: int, stride: int, hparams: RevnetHParams) -> None:
        super().__init__()
        bottleneck = hparams.bottleneck
        self.output_size = filter_size * _WIDER if bottleneck else filter_size
        self.shortcuts = nn.ModuleList(convolution(input_size, self.output_size, 1, stride=stride) for _ in range(2))
        self.f = residual(input_size, filter_size, bottleneck=bottleneck, stride=stride)
        self.g = residual(self.output_size, filter_size, bottleneck=bottleneck)
        self.reversible = ReversibleLayers(
            [ReversibleLayer(self.output_size, filter_size, bottleneck=bottleneck) for _ in range(layers)],
            reversible=hparams.reversible,
        )

    def forward(self, x1: Tensor, x2: Tensor) -> Halves:
        y1 = self.shortcuts[0](x1) + self.f(x2)
        y2 = self.shortcuts[1](x2) + self.g(y1)
        found: Halves = self.reversible(y1, y2)
        return found


@register_model
class Revnet(Model):
    """Stages of reversible layers, each but the first with half the height and width of the one before."""

    hparams_class = RevnetHParams
    default_hparams_set = "revnet_38_cifar"
    accepts: ClassVar = {"inputs": (Modality.IMAGE,), "targets": FIXED_OUTPUTS}

    def __init__(self, hparams: RevnetHParams, features: Mapping[str, FeatureSpec]) -> None:
        size = hparams.num_channels_init_block // 2
        stages = []
        for place, (filter_size, layers) in enumerate(
            zip(hparams.num_channels, hparams.num_layers_per_block, strict=True)
        ):
            stages.append(Stage(size, filter_size, layers=layers, stride=2 if place else 1, hparams=hparams))
            size = stages[-1].output_size
        super().__init__(hparams, features, body_size=2 * size)
        image, shrinks = features["inputs"], 2 ** (len(stages) - 1) * (4 if hparams.large_images else 1)
        require_size(image, shrinks, large_images=hparams.large_images)
        self.first = first_layers(image.shape[2], hparams.num_channels_init_block, large_images=hparams.large_images)
        self.stages = nn.ModuleList(stages)
        self.norm = batch_norm(2 * size)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, body_size]"""
        x1, x2 = self.first(features["inputs"]).chunk(2, dim=1)
        for stage in self.stages:
            x1, x2 = stage(x1, x2)
        x: Tensor = self.norm(torch.cat([x1, x2], dim=1))
        return global_average(x.relu())
