"""Dropout masks as inputs: the product is dropout, forward and backward use the same mask, expectations are kept."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import ModelProto, parser
from torch import Tensor, nn

from t2tdeploy.training.dropout_masks import DropoutMasks
from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from t2tdeploy.training.graph.masks import dropout_threshold, masks_as_inputs
from tests.training.graph.parity import BATCH, run, tensors

# What the builders make of two dropouts: rates as initializer or constant, and gradients from the boolean masks.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
two (float[batch, 3] x, float[batch, 3] dy) => (float[batch, 3] y, float[batch, 3] z, float[batch, 3] dx)
<float first_rate = {0.25}, bool training = {1}>
{
    y, y_mask = Dropout (x, first_rate, training)
    second_rate = Constant <value_float = 0.5> ()
    z, z_mask = Dropout (y, second_rate, training)
    z_bytes = Cast <to = 2> (z_mask)
    z_scale = Constant <value_float = 2.0> ()
    z_factor = DequantizeLinear (z_bytes, z_scale)
    dz = Mul (dy, z_factor)
    y_bytes = Cast <to = 2> (y_mask)
    y_scale = Constant <value_float = 1.3333334> ()
    y_factor = DequantizeLinear (y_bytes, y_scale)
    dx = Mul (dz, y_factor)
}
"""


def graph(text: str = GRAPH) -> ModelProto:
    return onnx.shape_inference.infer_shapes(parser.parse_model(text))


def test_every_dropout_becomes_a_product_with_its_mask() -> None:
    model = graph()
    specs = masks_as_inputs(model)
    onnx.checker.check_model(model)
    assert [(spec.name, spec.rate, spec.shape) for spec in specs] == [
        ("dropout_0", 0.25, ("batch", 3)),
        ("dropout_1", 0.5, ("batch", 3)),
    ]
    assert [value.name for value in model.graph.input] == ["x", "dy", "dropout_0", "dropout_1"]
    assert "Dropout" not in {node.op_type for node in model.graph.node}
    assert not {tensor.name for tensor in model.graph.initializer} & {"first_rate", "training"}, "nothing reads them"
    torch.manual_seed(1)
    x, dy = torch.randn(5, 3), torch.randn(5, 3)
    first, second = (torch.randint(0, 2, (5, 3), dtype=torch.uint8) for _ in range(2))
    found = run(model, {"x": x, "dy": dy, "dropout_0": first, "dropout_1": second})
    expected = {"y": x * first / 0.75, "z": x * first * second / 0.375, "dx": dy * first * second / 0.375}
    for name, value in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), value)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.99999])
def test_the_scale_is_that_of_the_rate_that_bits_can_have(rate: float) -> None:
    """So that the expectation of the product is the input itself."""
    model = graph(GRAPH.replace("0.25", str(rate)))
    masks_as_inputs(model)
    ones = torch.ones(1, 3)
    kept = torch.ones(1, 3, dtype=torch.uint8)
    found = run(model, {"x": ones, "dy": ones, "dropout_0": kept, "dropout_1": kept})["y"]
    chance = 1 - dropout_threshold(rate) / 2**16
    assert found == pytest.approx(1 / chance, rel=1e-6)
    assert chance == pytest.approx(1 - rate, abs=2**-16)
    assert chance > 0


def test_the_mean_over_many_masks_is_the_input() -> None:
    model = graph()
    specs = masks_as_inputs(model)
    x = torch.tensor([[1.0, -2.0, 3.0]]).expand(40_000, 3).contiguous()
    masks = DropoutMasks(specs, device=torch.device("cpu"))
    masks.seed(3)
    found = run(model, {"x": x, "dy": x, **masks.draw({"batch": len(x)})})
    for name, kept in (("y", 0.75), ("z", 0.375), ("dx", 0.375)):
        values = torch.from_numpy(found[name]) / x
        sigma = ((1 / kept - 1) / len(x)) ** 0.5
        assert (values.mean(0) - 1).abs().max() < 4 * sigma, name


def test_a_graph_without_dropout_has_no_masks() -> None:
    model = graph(GRAPH.replace("y, y_mask = Dropout (x, first_rate, training)", "y = Relu (x)\n y_mask = IsNaN (x)"))
    assert [spec.rate for spec in masks_as_inputs(model)] == [0.5]


@pytest.mark.parametrize(("rate", "threshold"), [(0.0, 0), (0.5, 2**15), (0.1, 6554), (0.999999, 2**16 - 1)])
def test_thresholds_are_the_nearest_level_but_never_drop_everything(rate: float, threshold: int) -> None:
    assert dropout_threshold(rate) == threshold


class Dropping(nn.Module):
    """The sum of squares behind a layer and its dropout."""

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Linear(9, 9)
        self.dropout = dropout

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.dropout(self.inner(x)).square().sum(),)


@pytest.mark.parametrize(
    ("dropout", "sizes"),
    [
        (nn.Dropout(0.5, inplace=True), (4, 9)),
        (nn.Dropout1d(0.5), (4, 1)),
        (nn.Dropout1d(0.5, inplace=True), (4, 1)),
        (nn.Dropout2d(0.5), (4, 1)),
    ],
    ids=repr,
)
def test_dropout_in_place_and_of_channels_has_a_mask_as_any_other(dropout: nn.Module, sizes: tuple[int, ...]) -> None:
    """So it follows the seed and the checkpoint."""
    module = Dropping(dropout).train()
    graph = joint_graph(module, (torch.randn(2, 4, 9),), [{0: BATCH}], GraphNames(("x",), ("loss",)))
    (spec,) = masks_as_inputs(graph)
    assert (spec.rate, spec.shape) == (0.5, ("batch", *sizes))
    x, mask = torch.randn(3, 4, 9), torch.randint(0, 2, (3, *sizes), dtype=torch.uint8)
    found = run(graph, {"x": x, spec.name: mask, **tensors(module)})
    loss = (module.inner(x) * mask * 2).square().sum()
    loss.backward()
    torch.testing.assert_close(torch.from_numpy(found["loss"]), loss.detach())
    torch.testing.assert_close(torch.from_numpy(found["inner.weight.grad"]), module.inner.weight.grad)
