"""The graph of each family of operators equals torch, outputs and gradients, on another size than it was built from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from t2tdeploy.training.graph.translations import convolution
from tests.training.graph.parity import BATCH, Branches, assert_parity, run, tensors


def _doubled(x: Tensor, times: int) -> Tensor:
    """Its gradient is a sum of one value with itself, and so on."""
    for _ in range(times):
        x = x + x
    return x


_IDS = torch.tensor([2, 0, 2, 3, 2])
_FUNCTIONS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "activations": {
        "relu": F.relu,
        "relu_sqrt": lambda x: F.relu(x).sqrt(),
        "relu_log_sqrt": lambda x: (F.relu(x).reshape(-1, 2, 2, x.shape[-1]) * 2 + 0).log1p().sqrt(),
        "relu_doubled": lambda x: _doubled(F.relu(x), 40) / 2.0**40,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "logsigmoid": F.logsigmoid,
        "softplus": F.softplus,
        "elu": F.elu,
        "leaky_relu": F.leaky_relu,
        "relu6": F.relu6,
        "hardtanh": F.hardtanh,
        "hardswish": F.hardswish,
        "hardsigmoid": F.hardsigmoid,
        "mish": F.mish,
        "prelu": nn.PReLU(4),
        "glu": lambda x: F.glu(x, dim=1),
        "softmax": lambda x: x.softmax(-1),
        "log_softmax": lambda x: x.log_softmax(1),
        "logsumexp": lambda x: x.logsumexp(-1),
        "exp_log": lambda x: (x.square() + 1).log().exp().sqrt(),
    },
    "reductions": {
        "max": lambda x: x.max(-1).values,
        "min": lambda x: x.min(1).values,
        "amax": lambda x: x.amax((1, 2)),
        "maximum": lambda x: torch.maximum(x, x.flip(1)),
        "mean": lambda x: x.mean((0, 2)),
        "var": lambda x: x.var(-1),
        "std": lambda x: x.std(-1, unbiased=False),
        "norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
        "cumsum": lambda x: x.cumsum(-1),
        "topk": lambda x: x.topk(3).values,
        "sort": lambda x: x.sort(-1).values,
    },
    "products": {
        "einsum": lambda x: torch.einsum("bcl,bdl->bcd", x, x.cos()),
        "einsum_outer": lambda x: torch.einsum("bcl,bcm->blm", x, x),
        "matmul": lambda x: x @ x.transpose(1, 2),
        "vector_right": lambda x: x @ x[0, 0],
        "transposed_and_vector": lambda x: x.mT @ x[0, :, 0],
        "vector_left": lambda x: x[0, :, 0] @ x,
        "mv": lambda x: x[0].mT.mv(x[0, :, 1]) + x[1].mv(x[0, 1]).sum(),
        "dot": lambda x: x[0, 0].dot(x[0, 1]).expand(2),
        "bmm": lambda x: torch.bmm(x, x.mT),
        "where": lambda x: torch.where(x > 0, x, x * 2),
        "clamp": lambda x: x.clamp(-0.5, 0.7),
        "clamp_min": lambda x: x.clamp_min(0.1),
        "masked_fill": lambda x: x.masked_fill(x < 0, -1.0),
        "divide": lambda x: x / (1 + x.square()),
        "power": lambda x: x.abs().pow(1.5) + x**3,
        "arctangent": lambda x: torch.atan2(x, x + 3) + x.erf(),
    },
    "shapes": {
        "cat": lambda x: torch.cat([x, x.sin(), x], 1),
        "stack": lambda x: torch.stack([x, -x], 2),
        "split": lambda x: x.split(4, -1)[1] * x.split([5, 1, 3], -1)[1],
        "chunk": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1],
        "unbind": lambda x: x.unbind(1)[2] + x.unbind(1)[0],
        "pad": lambda x: F.pad(x, (1, 2), value=0.5),
        "reflect": lambda x: F.pad(x, (1, 2), mode="reflect"),
        "flip": lambda x: x.flip(1, 2),
        "roll": lambda x: x.roll((1, -2), (1, 2)),
        "slice": lambda x: x[:, 1:3, 2:9:3],
        "slice_from_end": lambda x: x[..., -4:-1],
        "select": lambda x: x[:, -2] * x.select(2, 3)[:, :1],
        "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1),
        "repeat": lambda x: x.repeat(1, 2, 1).repeat_interleave(2, 1),
        "permute": lambda x: x.permute(2, 0, 1).flatten(1).unflatten(1, (-1, 4)),
        "triangle": lambda x: x.tril() + x.triu(1),
        "unfold": lambda x: x.unfold(2, 3, 2),
    },
    "places": {
        "index": lambda x: x[:, _IDS[:3]],
        "index_last": lambda x: x[:, :, _IDS],
        "index_pairs": lambda x: x[:, _IDS[[0, 1]], _IDS[[3, 3]]],
        "index_apart": lambda x: x[torch.tensor([0, 1, 0]), :, torch.tensor([-1, 2, -1])],
        "index_mask": lambda x: x * (x > 0) + x[x > 0].sum(),
        "index_select": lambda x: x.index_select(2, _IDS),
        "gather": lambda x: x.gather(2, (x > 0).long() * 3),
        "scatter": lambda x: x.scatter(2, (x[:, :, :1] > 0).long(), x[:, :, 3:4].cos()),
        "scatter_of_part": lambda x: x.scatter(2, (x[:, 1:, :1] > 0).long(), x.detach().cos()),
        "scatter_add_of_part": lambda x: x.scatter_add(2, (x[:, 1:, :2] > 0).long(), x.detach().cos()),
        "scatter_add": lambda x: torch.zeros_like(x).scatter_add(2, (x > 0).long(), x),
        "scatter_mean": lambda x: x.scatter_reduce(2, (x > 0).long(), x.cos(), "mean"),
        "scatter_mean_alone": lambda x: x.scatter_reduce(2, (x > 0).long(), x.cos(), "mean", include_self=False),
        "scatter_mean_of_part": lambda x: x.scatter_reduce(2, (x[:, 1:, :2] > 0).long(), x.detach().cos(), "mean"),
        "scatter_largest": lambda x: x.scatter_reduce(2, (x > 0).long(), x.cos(), "amax"),
        "index_put": lambda x: x.index_put((torch.tensor([0, 1]), torch.tensor([1, 3])), x[0, 0].cos()),
        "index_add": lambda x: x.index_add(1, _IDS[:4], x.sin()),
        "accumulated": lambda x: x.index_put((torch.tensor([0, 1, 0]),), x[:1].cos(), accumulate=True),
        "index_int32": lambda x: x[:, _IDS.int()[:3]] + x[:, _IDS.int()[[0, 1, 0]], 1:2],
        "index_pairs_int32": lambda x: x[:, _IDS.int()[[0, 1]], _IDS.int()[[3, 3]]],
        "index_select_int32": lambda x: x.index_select(2, _IDS.int()),
        "accumulated_int32": lambda x: x.index_put((_IDS.int()[[1, 1]],), x[:1].cos(), accumulate=True),
        "embedding_int32": lambda x: F.embedding((x[:, 0] > 0).int(), x[0], padding_idx=0),
        "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
        "nearest_size": lambda x: F.interpolate(x, size=13),
    },
}


@pytest.mark.parametrize("family", _FUNCTIONS)
def test_functions(family: str) -> None:
    torch.manual_seed(1)
    assert_parity(Branches(4, **_FUNCTIONS[family]), [torch.randn(2, 4, 9)], [torch.randn(5, 4, 9)])


def _impossible(x: Tensor) -> Tensor:
    """Where the first class cannot be."""
    return torch.cat([x[:, :1] * 0 - math.inf, x[:, 1:]], 1)


def _nll(x: Tensor) -> Tensor:
    return F.nll_loss(x.log_softmax(1), _labels(x), ignore_index=2, reduction="sum")


def _rows(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)


def _labels(x: Tensor) -> Tensor:
    """[batch, length] labels 0..3 that depend on x, but are not differentiated."""
    return (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


_LOSSES = {
    "cross_entropy": lambda x: F.cross_entropy(x, _labels(x)),
    "smoothed": lambda x: F.cross_entropy(x, _labels(x), label_smoothing=0.1, ignore_index=1),
    "weighted": lambda x: F.cross_entropy(x, _labels(x), weight=torch.tensor([1.0, 2.0, 0.5, 3.0])),
    "rows": lambda x: F.cross_entropy(_rows(x), _labels(x).flatten(), reduction="none"),
    "mean_of_rows": lambda x: F.cross_entropy(_rows(x), _labels(x).flatten(), ignore_index=0),
    "nll": _nll,
    "impossible_class_ignored": lambda x: F.cross_entropy(_impossible(x), _labels(x), ignore_index=0),
    "impossible_class_ignored_rows": lambda x: F.cross_entropy(
        _impossible(x), _labels(x), ignore_index=0, reduction="none"
    ),
    "mse": lambda x: F.mse_loss(x, x.detach().cos()),
    "l1": lambda x: F.l1_loss(x, x.detach().cos(), reduction="sum"),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, x.detach() + 1.5, reduction="none"),
    "huber": lambda x: F.huber_loss(x, 3 * x.detach()),
    "bce_with_logits": lambda x: F.binary_cross_entropy_with_logits(x, (x.detach() > 0).float()),
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid(), (x.detach() > 1).float()),
    "kl": lambda x: F.kl_div(x.log_softmax(1), x.detach().softmax(1), reduction="batchmean"),
}


def test_losses() -> None:
    torch.manual_seed(1)
    assert_parity(Branches(4, **_LOSSES), [torch.randn(2, 4, 9)], [torch.randn(5, 4, 9)])


_HEIGHT, _WIDTH = Dim("height", min=6), Dim("width", min=6)
_SPATIAL: dict[str, Callable[..., Tensor]] = {
    "plain": nn.Conv2d(4, 6, 3),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "uneven": nn.Conv2d(4, 4, (3, 2), stride=(1, 3), padding=(0, 1)),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, bias=False),
    "dilated": nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=2, stride=2),
    "pointwise": nn.Conv2d(4, 3, 1),
    "same": nn.Conv2d(4, 4, 4, padding="same"),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed_grouped": nn.ConvTranspose2d(4, 6, 3, stride=3, groups=2, dilation=2, bias=False),
    "max": nn.MaxPool2d(2),
    "max_overlapping": nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    "average": nn.AvgPool2d(2),
    "average_overlapping": nn.AvgPool2d(3, stride=2, padding=1),
    "average_counted": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "average_ceil": nn.AvgPool2d((3, 2), stride=2, ceil_mode=True),
    "average_apart": nn.AvgPool2d(2, stride=3, padding=1, ceil_mode=True),
    "average_divided": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False, divisor_override=5),
    "average_divided_ceil": nn.AvgPool2d(2, stride=3, padding=1, ceil_mode=True, divisor_override=5),
    "adaptive_one": nn.AdaptiveAvgPool2d(1),
    "batch_norm": nn.BatchNorm2d(4),
    "batch_norm_plain": nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    "group_norm": nn.GroupNorm(2, 4),
    "instance_norm": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "nearest": nn.Upsample(scale_factor=2.0),
}
_ONE_SIZE: dict[str, Callable[..., Tensor]] = {
    "adaptive": nn.AdaptiveAvgPool2d((3, 4)),
    "size": nn.Upsample(size=(11, 20)),
}
_BY_SIZE = (
    "strided",
    "dilated",
    "transposed",
    "max_overlapping",
    "average_counted",
    "average_ceil",
    "average_divided",
    "batch_norm",
    "nearest",
)


def test_images() -> None:
    torch.manual_seed(1)
    module = Branches(4, **_SPATIAL, **_ONE_SIZE)
    graph = assert_parity(module, [torch.randn(2, 4, 7, 10)], [torch.randn(3, 4, 7, 10)])
    changed = {value.name for value in graph.graph.output if value.name.endswith(".new")}
    assert {name.rsplit(".", 2)[1] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}


def test_convolutions_of_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weights' gradients are computed in another way; strides leave places over, at one end or both."""
    monkeypatch.setattr(convolution, "_LEAST_NUMBERS", 0)  # so that small ones do
    torch.manual_seed(1)
    images: dict[str, Callable[..., Tensor]] = {
        "plain": nn.Conv2d(8, 5, 3),
        "same": nn.Conv2d(8, 5, (3, 5), padding=(1, 2)),
        "spread": nn.Conv2d(8, 3, 3, dilation=(2, 1), padding=(1, 0)),
        "wide": nn.Conv2d(8, 4, 2, padding=2),
        "strided": nn.Conv2d(8, 6, 3, stride=2, padding=1),
        "uneven": nn.Conv2d(8, 4, (3, 2), stride=(1, 3), padding=(0, 1)),
        "dilated": nn.Conv2d(8, 3, 3, dilation=2, padding=2, stride=2, bias=False),
        "pointwise": nn.Conv2d(8, 3, 1, stride=2),
        "transposed": nn.ConvTranspose2d(8, 9, 3, stride=2, padding=1, output_padding=1),
    }
    assert_parity(Branches(8, **images), [torch.randn(2, 8, 7, 10)], [torch.randn(3, 8, 7, 10)])
    signal = Branches(8, conv=nn.Conv1d(8, 6, 3, stride=2, padding=1))
    assert_parity(signal, [torch.randn(2, 8, 10)], [torch.randn(3, 8, 10)])


def test_images_of_any_size() -> None:
    torch.manual_seed(1)
    module = Branches(4, **{name: _SPATIAL[name] for name in _BY_SIZE})
    axes = {0: BATCH, 2: _HEIGHT, 3: _WIDTH}
    assert_parity(module, [torch.randn(2, 4, 7, 10)], [torch.randn(3, 4, 8, 9)], [axes])


def test_signals_and_volumes() -> None:
    torch.manual_seed(1)
    signals: dict[str, Callable[..., Tensor]] = {
        "conv": nn.Conv1d(4, 6, 3, stride=2, padding=1),
        "causal": lambda x: F.conv1d(F.pad(x, (2, 0)), torch.ones(4, 1, 3), groups=4),
        "transposed": nn.ConvTranspose1d(4, 6, 3, stride=2),
        "max": nn.MaxPool1d(3, 2, padding=1),
        "average": nn.AvgPool1d(3, 2),
        "adaptive": nn.AdaptiveAvgPool1d(1),
        "batch_norm": nn.BatchNorm1d(4),
        "layer_norm": lambda x: F.layer_norm(x.transpose(1, 2), (4,)),
        "rms_norm": lambda x: F.rms_norm(x.transpose(1, 2), (4,)),
    }
    axes = {0: BATCH, 2: Dim("length", min=4)}
    assert_parity(Branches(4, **signals), [torch.randn(2, 4, 9)], [torch.randn(3, 4, 12)], [axes])
    volumes: dict[str, Callable[..., Tensor]] = {
        "conv": nn.Conv3d(4, 3, 2, stride=2),
        "transposed": nn.ConvTranspose3d(4, 2, 2),
        "max": nn.MaxPool3d(2),
        "average": nn.AvgPool3d(2, stride=1, padding=1),
        "average_divided": nn.AvgPool3d(2, ceil_mode=True, divisor_override=3),
        "adaptive": nn.AdaptiveAvgPool3d((2, 3, 1)),
    }
    assert_parity(Branches(4, **volumes), [torch.randn(2, 4, 4, 5, 4)], [torch.randn(3, 4, 4, 5, 4)])


def test_batch_norm_in_evaluation() -> None:
    torch.manual_seed(1)
    module = Branches(4, norm=nn.BatchNorm1d(4)).eval()
    graph = assert_parity(module, [torch.randn(3, 4)], [torch.randn(5, 4)])
    assert not [value.name for value in graph.graph.output if value.name.endswith(".new")]


def test_batch_norm_of_one_value_leaves_finite_statistics() -> None:
    """torch refuses such a batch, which has no unbiased variance; here its variance is 0."""
    torch.manual_seed(1)
    module = Branches(4, norm=nn.BatchNorm1d(4))
    names = GraphNames(("x",), ("loss", "y"))
    graph = joint_graph(module, [torch.randn(3, 4)], [{0: BATCH}], names)
    found = run(graph, tensors(module) | {"x": torch.randn(1, 4)})
    assert all(np.isfinite(value).all() for value in found.values())
    np.testing.assert_allclose(found["branches.norm.function.running_var.new"], 0.9)
