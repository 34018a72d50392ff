"""The fused output layer and loss: the operator is torch's cross-entropy, and its ONNX function is the operator."""

from __future__ import annotations

import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from onnx.inliner import inline_local_functions
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.training.graph import gpu_cross_entropy
from t2tdeploy.training.graph.linear_cross_entropy import DOMAIN, NAME, chunk_rows, linear_cross_entropy, onnx_function
from tests.training.graph.parity import assert_parity, run

HIDDEN, VOCAB = 6, 19
Case = tuple[Tensor, Tensor, Tensor]


def case(rows: int, *, pads: float, scale: float = 1.0) -> Case:
    """x, weight, and labels of which about the share `pads` is PAD."""
    torch.manual_seed(rows)
    labels = torch.randint(1, VOCAB, (rows,)) * (torch.rand(rows) >= pads)
    return torch.randn(rows, HIDDEN) * scale, torch.randn(VOCAB, HIDDEN), labels


CASES = {
    "no pads": case(10, pads=0.0),
    "pads": case(23, pads=0.4),
    "one row": case(1, pads=0.0),
    "pads only": case(5, pads=1.0),
    "no rows": case(0, pads=0.0),
    "large logits": case(9, pads=0.2, scale=40.0),
}
over_cases = pytest.mark.parametrize("name", CASES)
over_shares = pytest.mark.parametrize("share", [0.0, 0.1])


def expected(x: Tensor, weight: Tensor, labels: Tensor, share: float) -> tuple[Tensor, ...]:
    """By torch's own cross-entropy and autograd, in float64."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    losses = F.cross_entropy(x @ weight.T, labels, reduction="none", label_smoothing=share)
    numerator = (losses * (labels != 0)).sum()
    return tuple(tensor.float() for tensor in (numerator.detach(), *torch.autograd.grad(numerator, [x, weight])))


def assert_close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)


@over_cases
@over_shares
def test_the_operator_is_cross_entropy(name: str, share: float) -> None:
    assert_close(linear_cross_entropy(*CASES[name], share), expected(*CASES[name], share))


@over_shares
def test_its_gradients_are_those_of_autograd_times_what_comes_from_above(share: float) -> None:
    x, weight, labels = CASES["pads"]
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    numerator, _, _ = linear_cross_entropy(x, weight, labels, share)
    (numerator * 0.3).backward()
    assert x.grad is not None
    assert weight.grad is not None
    _, x_gradient, weight_gradient = expected(*CASES["pads"], share)
    assert_close((x.grad, weight.grad), (x_gradient * 0.3, weight_gradient * 0.3))


def test_pads_have_no_gradient() -> None:
    x, weight, labels = CASES["pads"]
    _, x_gradient, _ = linear_cross_entropy(x, weight, labels, 0.1)
    assert (x_gradient[labels == 0] == 0).all()
    assert (x_gradient[labels != 0] != 0).all()


INPUTS: dict[str, tuple[int, list[str | int]]] = {
    "x": (TensorProto.FLOAT, ["rows", HIDDEN]),
    "weight": (TensorProto.FLOAT, [VOCAB, HIDDEN]),
    "labels": (TensorProto.INT64, ["rows"]),
    "label_sums": (TensorProto.FLOAT, [VOCAB, HIDDEN]),  # rows of x added up by label, PAD's left out
}


def graph(share: float, chunk: int) -> ModelProto:
    node = helper.make_node(
        NAME, [*INPUTS], ["numerator", "x_gradient", "weight_gradient"], domain=DOMAIN,
        kept=1.0 - share, spread=share / VOCAB, chunk=chunk,
    )  # fmt: skip
    value = helper.make_tensor_value_info
    inputs = [value(name, *kind) for name, kind in INPUTS.items()]
    outputs = [
        value("numerator", TensorProto.FLOAT, []),
        value("x_gradient", TensorProto.FLOAT, ["rows", HIDDEN]),
        value("weight_gradient", TensorProto.FLOAT, [VOCAB, HIDDEN]),
    ]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    body = helper.make_graph([node], "loss", inputs, outputs)
    model: ModelProto = helper.make_model(body, functions=[onnx_function()], opset_imports=opsets, ir_version=10)
    return inline_local_functions(model)


@pytest.mark.parametrize("chunk", [4, 7, 1000])
@over_shares
def test_the_onnx_function_is_the_operator(chunk: int, share: float) -> None:
    """Whether rows fill their chunks or not; one graph for all sizes."""
    model = graph(share, chunk)
    for name, (x, weight, labels) in CASES.items():
        sums = torch.zeros_like(weight).index_add(0, labels, x * (labels != 0)[:, None])
        found = run(model, {"x": x, "weight": weight, "labels": labels, "label_sums": sums})
        assert_close(tuple(map(torch.from_numpy, found.values())), expected(x, weight, labels, share)), name


def gpu_graph(share: float, chunk: int, precision: str) -> ModelProto:
    inputs = [helper.make_tensor_value_info(name, *INPUTS[name]) for name in ("x", "weight", "labels")]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("numerator", []), ("x_gradient", ["rows", HIDDEN]), ("weight_gradient", [VOCAB, HIDDEN]))
    ]
    node = helper.make_node(
        gpu_cross_entropy.NAME, [value.name for value in inputs], [value.name for value in outputs], domain=DOMAIN,
        kept=1.0 - share, spread=share / VOCAB, chunk=chunk, low=int(gpu_cross_entropy.LOW_TYPES[precision]),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    body = helper.make_graph([node], "loss", inputs, outputs)
    functions = [gpu_cross_entropy.onnx_function()]
    model: ModelProto = helper.make_model(body, functions=functions, opset_imports=opsets, ir_version=10)
    return inline_local_functions(model)


@pytest.mark.parametrize("chunk", [4, 7, 1000])
@over_shares
def test_the_onnx_function_for_gpus_is_the_operator(chunk: int, share: float) -> None:
    model = gpu_graph(share, chunk, "float32")
    for name, (x, weight, labels) in CASES.items():
        found = run(model, {"x": x, "weight": weight, "labels": labels})
        assert_close(tuple(map(torch.from_numpy, found.values())), expected(x, weight, labels, share)), name


@over_shares
def test_both_are_near_in_16_bits(share: float) -> None:
    model = gpu_graph(share, 7, "float16")
    for name in ("no pads", "pads", "one row"):
        x, weight, labels = CASES[name]
        low = linear_cross_entropy(x, weight, labels, share, "float16")
        found = map(torch.from_numpy, run(model, {"x": x, "weight": weight, "labels": labels}).values())
        for mine, theirs, exact in zip(found, low, expected(x, weight, labels, share), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(theirs, exact, rtol=1e-2, atol=1e-2)
            assert mine.dtype == theirs.dtype == torch.float32


class Loss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(HIDDEN, HIDDEN)
        self.weight = nn.Parameter(torch.randn(VOCAB, HIDDEN))

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor]:
        numerator, _, _ = linear_cross_entropy(self.inner(x), self.weight, labels, 0.1)
        return (numerator * 0.3,)


@pytest.mark.parametrize("name", ["pads", "pads only"])
def test_it_is_differentiated_as_part_of_a_graph(name: str) -> None:
    x, _, labels = CASES[name]
    example, _, some = CASES["no pads"]
    assert_parity(Loss(), (example, some), (x, labels))


def test_a_chunk_of_logits_fits_the_cache_and_is_never_tiny() -> None:
    for vocab in (50, 8_000, 32_000):
        assert chunk_rows(vocab) * vocab <= 2**22
    assert chunk_rows(10**6) == 64
