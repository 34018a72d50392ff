"""Names, order and kinds of a joint graph's inputs and outputs; what cannot become a graph says where and why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from t2tdeploy.errors import DifferentiationError
from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from tests.training.graph.parity import BATCH, assert_parity, run, tensors


class Mixed(nn.Module):
    """Tied, frozen and unused parameters, buffers that change and others, several arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.frozen = nn.Parameter(torch.full((4,), 0.5), requires_grad=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 3)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("offset", torch.arange(4.0), persistent=False)

    def forward(self, scale: Tensor, *features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, y = features
        self.count += 1
        hidden = self.second(self.first(x).relu() * self.frozen) + self.offset + torch.tensor([1.0, 2.0, 3.0, 4.0])
        total = (hidden * y).sum()
        return total * scale, total, hidden, x


def names(values: object) -> list[str]:
    return [value.name for value in values]  # type: ignore[attr-defined]


def test_inputs_and_outputs() -> None:
    torch.manual_seed(1)
    scale = torch.tensor(3.0)
    model = assert_parity(
        Mixed(),
        [scale, torch.randn(2, 4), torch.randn(2, 4)],
        [scale, torch.randn(5, 4), torch.randn(5, 4)],
        [None, {0: BATCH}, {0: BATCH}],
    )
    graph = model.graph
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "constant": '["unused.weight", "unused.bias"]'
    }
    trained = ["first.weight", "first.bias", "second.bias", "unused.weight", "unused.bias"]
    assert names(graph.input) == ["input_0", "input_1", "input_2", *trained, "frozen", "count", "offset"]
    results = ["loss", "output_1", "output_2", "output_3"]
    assert names(graph.output) == [*results, *(f"{name}.grad" for name in trained), "count.new"]
    assert not set(names(graph.initializer)) & {"frozen", "offset", *trained}


def test_axes_have_the_callers_names() -> None:
    def doubled(x: Tensor) -> Tensor:
        return torch.cat([x, x], 1)

    module = Wrapped(doubled)
    shapes = [{0: Dim("batch"), 1: Dim("length")}]
    graph = joint_graph(module, [torch.randn(2, 3, 4)], shapes, GraphNames(("x",), ("loss", "y"))).graph
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    assert axes["x"] == ["batch", "length", 4]
    result = next(value for value in graph.output if value.name == "y")
    assert [dim.dim_param for dim in result.type.tensor_type.shape.dim][:2] == ["batch", "2*length"]


def test_the_same_tensor_twice_is_two_outputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            loss = (x * (self.a + self.b)).sum()
            return loss, loss, x

    assert_parity(Twice(), [torch.randn(2, 4)], [torch.randn(3, 4)])


def test_the_graph_has_no_sequences_and_no_needless_nodes() -> None:
    def parts(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return a.split([1, 1], -1)[1] * b.unbind(-1)[0].unsqueeze(-1)

    graph = joint_graph(Wrapped(parts), [torch.randn(2, 3, 4)], [{0: BATCH}], GraphNames(("x",), ("loss", "y")))
    operators = {node.op_type for node in graph.graph.node}
    assert not [operator for operator in operators if "Sequence" in operator]
    assert not operators & {"Identity", "Constant", "CastLike"}


def test_each_dropout_has_its_own_mask() -> None:
    def difference(x: Tensor) -> Tensor:
        return F.dropout(x, 0.5) - F.dropout(x, 0.5)

    graph = joint_graph(Wrapped(difference), [torch.ones(2, 4)], [{0: BATCH}], GraphNames(("x",), ("loss", "y")))
    y = run(graph, {"x": torch.ones(100, 4), "scale": torch.ones(4)})["y"]
    assert set(np.unique(y)) == {-2.0, 0.0, 2.0}


def test_attention_of_torch() -> None:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    shapes = [{0: BATCH, 1: Dim("length")}]
    assert_parity(Wrapped(layer), [torch.randn(2, 3, 4)], [torch.randn(3, 5, 4)], shapes)


class Wrapped(nn.Module):
    """A function or module after a parameter of 4 numbers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.inner = nn.ModuleList([Part(function)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.inner[0](x * self.scale)
        return y.square().sum(), y


class Part(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@torch.library.custom_op("t2tdeploy_tests::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    """Not differentiable, for all that torch knows."""
    return x.clone()


opaque.register_fake(torch.empty_like)


def data_dependent(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("function", "operator", "reason"),
    [
        pytest.param(lambda x: torch.linalg.svd(x).S, "aten._linalg_svd.default", "no translation", id="untranslated"),
        pytest.param(opaque, "t2tdeploy_tests.opaque.default", "differentiated", id="undifferentiable"),
        pytest.param(data_dependent, None, "depends on the values", id="data-dependent"),
        pytest.param(
            lambda x: nn.functional.dropout(x[x > 0]),
            "aten.native_dropout.default",
            "how many random",
            id="masked dropout",
        ),
        pytest.param(lambda x: torch.from_numpy(x.detach().numpy()), None, "cannot trace", id="numpy"),
    ],
)
def test_what_cannot_become_a_graph(
    function: Callable[[Tensor], Tensor], operator: str | None, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    names = GraphNames(("x",), ("loss", "y"))
    with pytest.raises(DifferentiationError) as caught:
        joint_graph(Wrapped(function), [torch.randn(2, 4)], [{0: BATCH}], names)
    error = caught.value
    assert (error.operator, error.module_path) == (operator, "inner.0")
    assert "'inner.0'" in error.message
    assert reason in error.message
    assert "\n" not in error.message
    assert "--engine torch" in (error.help or "")
    assert capfd.readouterr() == ("", "")


def test_an_axis_that_the_model_fixes() -> None:
    with pytest.raises(DifferentiationError, match="dynamic axis"):
        joint_graph(
            Wrapped(lambda x: x * torch.ones(2, 4)),
            [torch.randn(2, 4)],
            [{0: BATCH}],
            GraphNames(("x",), ("loss", "y")),
        )


def test_the_file_holds_no_weights() -> None:
    module = Wrapped(nn.Linear(4, 1000))
    graph = joint_graph(module, [torch.randn(2, 4)], [{0: BATCH}], GraphNames(("x",), ("loss", "y")))
    onnx.checker.check_model(graph, full_check=True)
    assert (graph.opset_import[0].version, graph.ir_version) == (18, 10)
    assert graph.ByteSize() < 4 * sum(tensor.numel() for tensor in tensors(module).values())
