"""A program that needs no decomposing is translated as it is; one that does, after it."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from t2tdeploy.export import undecomposed
from t2tdeploy.export.undecomposed import Undecomposed, to_onnx
from t2tdeploy.training.graph.forward import forward_graph
from t2tdeploy.training.graph.joint import GraphNames
from t2tdeploy.training.graph.step import EvaluationStep
from tests.export.calls import Calls
from tests.models.tiny import tiny_transformer

ATEN = torch.ops.aten


def captured(function: Any) -> ExportedProgram:
    return torch.export.export(Calls(function), (torch.randn(3, 4),), dynamic_shapes=(({0: Dim("rows")},),))


def operators(program: ExportedProgram) -> list[Any]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def test_a_program_without_operators_to_decompose_stays_as_it_is() -> None:
    program = Undecomposed.of(captured(lambda x: torch.relu(x) + 1))
    assert program.run_decompositions({ATEN.silu.default: None}) is program


@pytest.mark.parametrize(
    "function",
    [lambda x: nn.functional.silu(x), lambda x: torch.cond(x.sum() > 0, torch.sin, nn.functional.silu, (x,))],
)
def test_one_with_such_operators_is_decomposed_wherever_they_are(function: Any) -> None:
    table = {ATEN.silu.default: torch._decomp.decomposition_table[ATEN.silu.default]}
    decomposed = Undecomposed.of(captured(function)).run_decompositions(table)
    modules = [part for part in decomposed.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    found = {node.target for part in modules for node in part.graph.nodes}
    assert ATEN.silu.default not in found
    x = torch.randn(5, 4)
    torch.testing.assert_close(decomposed.module()(x), function(x))


def test_what_writes_into_its_input_is_decomposed() -> None:
    decomposed = Undecomposed.of(captured(lambda x: (x + 1).relu_())).run_decompositions({})
    assert ATEN.relu_.default not in operators(decomposed)


def test_each_size_is_computed_once() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = torch.cat([x, x])
        return (y + 1).view(y.shape[0] * 4), (x * 2).view(x.shape[0] * 4), x.exp().view(x.shape[0] * 4)

    program = captured(function)
    merged = Undecomposed.of(program)
    values = [node.meta.get("val") for node in merged.graph.nodes]
    sizes = [value.node.expr for value in values if isinstance(value, torch.SymInt)]
    assert len(sizes) == len(set(sizes)) > 0
    x = torch.randn(6, 4)
    for result, expected in zip(merged.module()(x), function(x), strict=True):
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_operators_that_torch_onnx_decomposes_are_translated(dtype: torch.dtype) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x & y, x | y, x ^ y, x.to(torch.float32), x.to(dtype)

    pair = tuple(torch.randint(0, 2, (3, 4)).to(dtype) for _ in range(2))
    program = to_onnx(
        Calls(function),
        pair,
        dynamic_shapes=(({0: Dim("rows")},) * 2,),
        inputs=["x", "y"],
        outputs=[*"abcde"],
        opset=18,
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for rows in (0, 1, 5):
        pair = tuple(torch.randint(0, 2, (rows, 4)).to(dtype) for _ in range(2))
        found = session.run(None, {"x": pair[0].numpy(), "y": pair[1].numpy()})
        for ours, expected in zip(found, function(*pair), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), expected)


@pytest.mark.parametrize("divisor", [2.5, 3, torch.tensor(2.5), torch.tensor(3), torch.tensor(3, dtype=torch.int32)])
def test_divisions_that_round_are_torchs(divisor: Any) -> None:
    module, given = Calls(lambda x: torch.div((4 * x).long(), divisor, rounding_mode="trunc")), 3 * torch.randn(5, 7)
    program = to_onnx(module, (given,), dynamic_shapes=None, inputs=["x"], outputs=["y"], opset=18)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    assert session.run(None, {"x": given.numpy()})[0].tolist() == module(given).tolist()


def test_what_has_no_translation_and_no_decomposition_listed_exports_all_the_same() -> None:
    module = nn.BatchNorm1d(4).eval()
    program = to_onnx(
        module, (torch.randn(3, 4),), dynamic_shapes=({0: Dim("rows")},), inputs=["x"], outputs=["y"], opset=18
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(5, 4)
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), module(x))


def test_the_evaluation_of_a_transformer_is_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its masks would ask that no length be 1: what is captured asks at run time instead of being refused."""
    translated, export_quickly = [], undecomposed.export_quickly

    def noting(program: Any, *args: Any, **options: Any) -> Any:
        translated.append(type(program))
        return export_quickly(program, *args, **options)

    monkeypatch.setattr(undecomposed, "export_quickly", noting)
    model, batch = tiny_transformer(11, layers=1), Dim("batch")
    example = tuple(torch.ones(5, length, dtype=torch.int64) for length in (17, 19))
    shapes = [{0: batch, 1: Dim(f"{name}_length")} for name in model.features]
    names = GraphNames(tuple(model.features), ("numerator", "denominator", "correct"))
    forward_graph(EvaluationStep(model), example, shapes, names)
    assert translated == [Undecomposed]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("shape", "weighted", "ignored"), [((6, 5), False, -100), ((6, 5), True, 2), ((6, 5, 3), True, 0)]
)
def test_cross_entropy_is_torchs(
    reduction: str, smoothing: float, soft: bool, shape: tuple[int, ...], weighted: bool, ignored: int
) -> None:
    """torch.onnx's own forgets label_smoothing, and says nothing; of probabilities it makes what no runtime loads."""
    torch.manual_seed(1)
    weight = torch.rand(5) if weighted else None
    x, target = torch.randn(shape), torch.randint(0, 5, (shape[0], *shape[2:]))
    if soft:
        target = torch.randn(shape).softmax(1)
    options: dict[str, Any] = {} if soft else {"ignore_index": ignored}

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=smoothing, **options)

    for fast in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not fast:
                patch.setattr(undecomposed, "_captured", lambda *_: 1 / 0)
            axes = ({0: Dim.AUTO}, {0: Dim.AUTO})
            program = to_onnx(
                Calls(loss), (x, target), dynamic_shapes=(axes,), inputs=["x", "y"], outputs=["z"], opset=18
            )
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        (found,) = session.run(None, {"x": x.numpy(), "y": target.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), loss(x, target))
