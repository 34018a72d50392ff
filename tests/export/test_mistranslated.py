"""Operators that torch.onnx makes something else of, without a word, compute what torch does, on either way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.export import Dim
from torch.nn import functional as F

from t2tdeploy.export import undecomposed
from t2tdeploy.export.undecomposed import to_onnx
from tests.export.calls import Calls


@pytest.fixture(params=[True, False], ids=["undecomposed", "decomposed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(undecomposed, "_captured", lambda *_: 1 / 0)


def assert_torchs(function: Callable[..., list[Tensor]], *given: Tensor, axes: Any = None) -> None:
    names = [f"x{place}" for place in range(len(given))]
    shapes = None if axes is None else (axes,)
    expected = function(*given)
    outputs = [f"y{place}" for place in range(len(expected))]
    program = to_onnx(Calls(function), given, dynamic_shapes=shapes, inputs=names, outputs=outputs, opset=18)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    feed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
    for found, value in zip(session.run(None, feed), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), value)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("rows", [3, 5])
def test_scatters(include_self: bool, rows: int) -> None:
    """An index may be smaller than what it scatters, and where it scatters to."""
    torch.manual_seed(1)
    x, index, values = torch.randn(4, 6), torch.randint(0, 3, (rows, 5)), torch.randn(5, 6)

    def function(x: Tensor, index: Tensor, values: Tensor) -> list[Tensor]:
        reduced = [
            x.scatter_reduce(0, index, values, reduce, include_self=include_self)
            for reduce in ("mean", "sum", "prod", "amax", "amin")
        ]
        return [*reduced, x.scatter_add(0, index, values), x.scatter(0, index[:1], values)]

    assert_torchs(function, x, index, values, axes=({0: Dim("rows")}, None, None))


@pytest.mark.usefixtures("way")
def test_a_mean_of_integers_is_refused() -> None:
    """torch rounds it down."""
    index = torch.tensor([0, 0, 1])

    def function(x: Tensor) -> list[Tensor]:
        return [torch.zeros(2, dtype=torch.int64).scatter_reduce(0, index, x, "mean")]

    with pytest.raises(torch.onnx.OnnxExporterError):
        assert_torchs(function, torch.tensor([1, 2, 4]))


@pytest.mark.usefixtures("way")
def test_indices_of_int32() -> None:
    def function(x: Tensor, ids: Tensor) -> list[Tensor]:
        return [
            x[ids],
            x[:, ids, ids.flip(0)],
            x[ids, :, ids[:1]],
            x.index_put((ids[:2],), torch.zeros(())),
            x.index_select(1, ids),
            F.embedding(ids, x[0]),
        ]

    assert_torchs(function, torch.randn(4, 4, 5), torch.tensor([2, 0, 3, 2], dtype=torch.int32))


@pytest.mark.usefixtures("way")
def test_masks_beside_other_indices_are_refused() -> None:
    """torch.onnx's own graph forgets the other ones."""
    with pytest.raises(torch.onnx.OnnxExporterError, match="mask"):
        assert_torchs(lambda x: [x[x[..., 0] > -9, torch.tensor([1])]], torch.randn(3, 4, 5))


_POOLS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 2},
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "uncounted": {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    "up": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "up_padded": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    "up_uncounted": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    "apart": {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dynamic", [False, True])
def test_average_pools(axes: int, dynamic: bool) -> None:
    torch.manual_seed(1)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    divisors = [{}] if axes == 1 else [{}, {"divisor_override": 3}]

    def function(x: Tensor) -> list[Tensor]:
        pooled = [pool(x, **options, **divisor) for options in _POOLS.values() for divisor in divisors]
        # What is added has one size only: a runtime that expects other sizes of the pool's does not load the graph.
        return pooled if dynamic else [one + torch.ones(one.shape) for one in pooled]

    x = torch.randn(2, 3, *(8, 7, 6)[:axes])
    shapes = (dict.fromkeys(range(2, 2 + axes), Dim.DYNAMIC),) if dynamic else None
    assert_torchs(function, x, axes=shapes)
    if axes > 1:
        assert_torchs(function, x[0])  # a batch may be missing


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_ignored_label_costs_nothing_where_a_class_is_impossible(smoothing: float) -> None:
    x, labels = torch.randn(5, 4, 3), torch.randint(0, 4, (5, 3))
    x[:, 0] = -torch.inf
    options: dict[str, Any] = {"ignore_index": 0, "label_smoothing": smoothing}
    assert_torchs(lambda *given: [F.cross_entropy(*given, **options, reduction="none")], x, labels)
