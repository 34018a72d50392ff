"""Hyperparameters and named sets of the models for images, after Tensor2Tensor's (no torch).

`batch_size` counts images. Learning rates fall along half a cosine to 0 at `train_steps`, where Tensor2Tensor's sets do
so too, whatever the number of steps is set to.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from t2tdeploy.hparams import Count, HParams, OptimizerName, Share
from t2tdeploy.registry import register_hparams

Counts = tuple[Count, ...]


class ImageHParams(HParams):
    """The usual recipe of convolutional networks: Nesterov's momentum, a cosine, weight decay."""

    batch_size: Count = Field(128, description="images per batch")
    train_steps: Count = Field(64_000, description="optimizer steps of a whole run")
    optimizer: OptimizerName = Field("momentum", description="the update rule")
    optimizer_momentum: Share = Field(0.9, description="momentum (momentum)")
    weight_decay: float = Field(
        1e-4, ge=0, description="decoupled weight decay (adamw, adafactor), or L2 penalty (momentum, sgd)"
    )
    learning_rate_schedule: str = Field(
        "constant*linear_warmup*single_cycle_cos_decay",
        description="product of named factors, see training/schedules.py",
    )
    learning_rate_constant: float = Field(0.1, gt=0, description="the factor `constant`")
    learning_rate_warmup_steps: Count = Field(400, description="steps of `linear_warmup`, floor of `rsqrt_decay`")
    label_smoothing: Share = Field(0.0, description="probability spread over the other labels in training")


class ResnetHParams(ImageHParams):
    """Sizes of a residual network (He et al. 2016)."""

    layer_sizes: Counts = Field((3, 4, 6, 3), min_length=1, description="blocks of each stage")
    filter_sizes: Counts = Field(
        (64, 64, 128, 256, 512), description="channels of the first convolution and of the blocks of each stage"
    )
    bottleneck: bool = Field(True, description="blocks of 1×1, 3×3, 1×1 convolutions, four times as wide; or two 3×3")
    large_images: bool = Field(True, description="first a 7×7 convolution of stride 2 and pooling; or one of 3×3")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if len(self.filter_sizes) != len(self.layer_sizes) + 1:
            raise ValueError(
                f"filter_sizes has {len(self.filter_sizes)} sizes: one for the first convolution and one for each of "
                f"the {len(self.layer_sizes)} stages of layer_sizes"
            )
        return self


class ShakeShakeHParams(ImageHParams):
    """Sizes of a shake-shake network (Gastaldi 2017), in the paper's words for how branches are mixed."""

    hidden_size: Count = Field(32, description="channels of the first stage; doubled in each of the next two")
    num_hidden_layers: int = Field(26, ge=8, description="convolutions on the way: 2, and 6 for each block of a stage")
    forward_mixing: Literal["shake", "even"] = Field("shake", description="weights of branches: random, or a half each")
    backward_mixing: Literal["shake", "even", "keep"] = Field(
        "shake", description="of their gradients: random, a half each, or those of the forward pass"
    )

    @model_validator(mode="after")
    def _layers_make_blocks(self) -> Self:
        if self.num_hidden_layers % 6 != 2:
            raise ValueError(f"num_hidden_layers = {self.num_hidden_layers} must be 2 more than a multiple of 6")
        return self


class XceptionHParams(ImageHParams):
    """Sizes of a network of separable convolutions (Chollet 2017)."""

    hidden_size: Count = Field(768, description="channels of the residual blocks")
    num_hidden_layers: Count = Field(8, description="residual blocks of three separable convolutions")
    kernel_size: int = Field(3, ge=1, le=15, description="side of the kernels, an odd number")
    dropout: Share = Field(0.2, description="dropout of every block's output")

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size = {self.kernel_size} must be odd, so that images keep their size")
        return self


class RevnetHParams(ImageHParams):
    """Sizes of a reversible network (Gomez et al. 2017)."""

    num_channels: Counts = Field((64, 128, 256, 416), min_length=1, description="channels of each half of each stage")
    num_layers_per_block: Counts = Field((1, 1, 10, 1), description="reversible layers of each stage")
    num_channels_init_block: Count = Field(64, description="channels of the first convolution")
    bottleneck: bool = Field(
        True, description="functions of 1×1, 3×3, 1×1 convolutions, four times as wide; or two 3×3"
    )
    large_images: bool = Field(True, description="first a 7×7 convolution of stride 2 and pooling; or one of 3×3")
    reversible: bool = Field(
        True, description="engine torch computes activations again from those behind them instead of keeping them"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if len(self.num_channels) != len(self.num_layers_per_block):
            raise ValueError(
                f"num_channels has {len(self.num_channels)} sizes, "
                f"num_layers_per_block {len(self.num_layers_per_block)}"
            )
        if self.num_channels_init_block % 2:
            raise ValueError(f"num_channels_init_block = {self.num_channels_init_block} must be even: it is halved")
        return self


class AlexnetHParams(ImageHParams):
    """Sizes of a plain stack of convolutions and dense layers (Krizhevsky et al. 2012)."""

    filter_sizes: Counts = Field((32, 64), min_length=1, description="channels of each convolution")
    kernel_sizes: Counts = Field((5, 5), description="side of each kernel")
    strides: Counts = Field((1, 1), description="stride of each convolution")
    pooled: tuple[bool, ...] = Field((True, True), description="whether max pooling of stride 2 follows it")
    dense_sizes: Counts = Field((1024,), min_length=1, description="width of each dense layer")
    dropout: Share = Field(0.4, description="dropout of the dense layers")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in ("filter_sizes", "kernel_sizes", "strides", "pooled")}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise ValueError(f"one entry per convolution is needed, but there are: {said}")
        return self


@register_hparams
def resnet_50() -> ResnetHParams:
    """ResNet-50 for photographs of 224 pixels: bottleneck blocks 3, 4, 6, 3."""
    return ResnetHParams.create({"learning_rate_constant": 0.4, "train_steps": 120_000})


@register_hparams
def resnet_34() -> ResnetHParams:
    """ResNet-34: two 3×3 convolutions a block, 3, 4, 6, 3 blocks."""
    return resnet_50().replace(bottleneck=False)


@register_hparams
def resnet_18() -> ResnetHParams:
    """ResNet-18: two 3×3 convolutions a block, 2, 2, 2, 2 blocks."""
    return resnet_34().replace(layer_sizes=(2, 2, 2, 2))


@register_hparams
def resnet_cifar_32() -> ResnetHParams:
    """32 layers for images of 32 pixels: stages of 5 blocks of 16, 32 and 64 channels (He et al. 2016, 4.2)."""
    return resnet_34().replace(
        layer_sizes=(5, 5, 5),
        filter_sizes=(16, 16, 32, 64),
        large_images=False,
        learning_rate_constant=0.1,
        train_steps=64_000,
    )


@register_hparams
def resnet_small() -> ResnetHParams:
    """Stages of 2 blocks of 32, 64 and 128 channels: images of 8 to 64 pixels, on a CPU."""
    return resnet_cifar_32().replace(layer_sizes=(2, 2, 2), filter_sizes=(32, 32, 64, 128), train_steps=10_000)


@register_hparams
def resnet_digits() -> ResnetHParams:
    """One block a stage, 24, 48 and 96 channels: 1300 digits of 8 pixels, a minute on two CPU cores."""
    return resnet_small().replace(
        layer_sizes=(1, 1, 1),
        filter_sizes=(24, 24, 48, 96),
        batch_size=64,
        learning_rate_constant=0.1,
        learning_rate_warmup_steps=50,
        weight_decay=5e-4,
        label_smoothing=0.1,
        train_steps=600,
    )


@register_hparams
def shakeshake_small() -> ShakeShakeHParams:
    """26 layers, two branches of 32 channels, for images of 32 pixels."""
    return ShakeShakeHParams.create({"learning_rate_constant": 0.2, "train_steps": 700_000})


@register_hparams
def shakeshake_big() -> ShakeShakeHParams:
    """The same with branches of 96 channels."""
    return shakeshake_small().replace(hidden_size=96)


@register_hparams
def xception_base() -> XceptionHParams:
    """Eight residual blocks of separable convolutions of 768 channels; Adam."""
    return XceptionHParams.create(
        {
            "optimizer": "adam",
            "optimizer_adam_beta1": 0.95,
            "optimizer_adam_beta2": 0.999,
            "optimizer_adam_epsilon": 1e-6,
            "weight_decay": 0.0,
            "clip_grad_norm": 2.0,
            "label_smoothing": 0.1,
            "learning_rate_constant": 1e-3,
            "learning_rate_warmup_steps": 2000,
        }
    )


@register_hparams
def xception_tiny() -> XceptionHParams:
    """Two blocks of 64 channels: experiments, tests."""
    return xception_base().replace(
        hidden_size=64, num_hidden_layers=2, train_steps=2000, learning_rate_warmup_steps=100
    )


@register_hparams
def revnet_104() -> RevnetHParams:
    """RevNet-104 for photographs of 224 pixels."""
    return RevnetHParams.create({"train_steps": 160_000})


@register_hparams
def revnet_38_cifar() -> RevnetHParams:
    """RevNet-38 for images of 32 pixels."""
    return RevnetHParams.create(
        {
            "num_channels": (16, 32, 56),
            "num_layers_per_block": (2, 2, 2),
            "num_channels_init_block": 32,
            "bottleneck": False,
            "large_images": False,
        }
    )


@register_hparams
def revnet_110_cifar() -> RevnetHParams:
    """RevNet-110 for images of 32 pixels."""
    return revnet_38_cifar().replace(num_channels=(16, 32, 64), num_layers_per_block=(8, 8, 8))


@register_hparams
def alexnet_small() -> AlexnetHParams:
    """The tutorial's net, for images of 8 to 64 pixels: 5×5 convolutions of 32 and 64 channels, pooling, 1024 units."""
    return AlexnetHParams.create(
        {
            "optimizer": "adam",
            "optimizer_adam_beta2": 0.999,
            "optimizer_adam_epsilon": 1e-8,
            "weight_decay": 0.0,
            "learning_rate_constant": 1e-3,
            "learning_rate_warmup_steps": 100,
            "train_steps": 5000,
        }
    )


@register_hparams
def alexnet_base() -> AlexnetHParams:
    """AlexNet for photographs of 224 pixels, as one stack (Krizhevsky et al. 2012)."""
    return AlexnetHParams.create(
        {
            "filter_sizes": (96, 256, 384, 384, 256),
            "kernel_sizes": (11, 5, 3, 3, 3),
            "strides": (4, 1, 1, 1, 1),
            "pooled": (True, True, False, False, True),
            "dense_sizes": (4096, 4096),
            "dropout": 0.5,
            "weight_decay": 5e-4,
            "learning_rate_constant": 0.01,
            "train_steps": 450_000,
        }
    )
