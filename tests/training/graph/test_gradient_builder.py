"""Graphs of onnxruntime-training's gradient builder: losses and gradients are torch's. Needs that package."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from t2tdeploy.errors import DifferentiationError, OperationalError
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.runtime import import_onnxruntime
from t2tdeploy.training.graph.environment import ONNXRUNTIME_TRAINING, gradient_builders
from t2tdeploy.training.graph.gradient_builder import gradient_builder_graph
from t2tdeploy.training.graph.joint import GraphNames
from t2tdeploy.training.graph.masks import masks_as_inputs
from t2tdeploy.training.graph.noise import noise_as_inputs
from t2tdeploy.training.graph.step import TrainingStep
from tests.models.tiny import HPARAMS, features
from tests.training.graph.parity import StraightThrough, assert_equal, autograd, run, tensors

BATCH, LENGTH = Dim("batch"), Dim("length")
Axes = Mapping[int, Any] | None
AVAILABLE = ONNXRUNTIME_TRAINING in gradient_builders()
needs_training = pytest.mark.skipif(
    not AVAILABLE, reason="onnxruntime-training is not in this environment: make test-ort-training"
)


def build(module: nn.Module, example: Sequence[Tensor], axes: Sequence[Axes], *, results: int = 1) -> onnx.ModelProto:
    names = GraphNames(tuple(f"input_{i}" for i in range(len(example))), tuple(f"result_{i}" for i in range(results)))
    return gradient_builder_graph(module, example, axes, names)


def names_of(values: Sequence[onnx.ValueInfoProto]) -> list[str]:
    return [value.name for value in values]


def assert_parity(module: nn.Module, batches: Sequence[Sequence[Tensor]], axes: Sequence[Axes]) -> None:
    """One graph, built on the first batch, gives on all what torch gives: results, gradients, changed buffers."""
    results = len(copy.deepcopy(module)(*batches[0]))
    graph = build(module, batches[0], axes, results=results)
    for batch in batches:
        found = run(graph, tensors(module) | {f"input_{i}": tensor for i, tensor in enumerate(batch)})
        assert_equal(found, autograd(module, batch, [f"result_{i}" for i in range(results)]))


class Loss(nn.Module):
    """A scalar that weights every element of a module's output differently."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor]:
        y = self.inner(x)
        y = y[0] if isinstance(y, tuple) else y
        return ((y.sin() * torch.linspace(0.5, 1.5, y.size(-1))).sum(),)


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "mlp": (nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4), nn.Tanh(), nn.LayerNorm(4)), (6,)),
    "convolutions": (
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 3), nn.Flatten()),
        (2, 8, 8),
    ),
    "batch_norm": (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Sigmoid()), (6,)),
    "batch_norm_2d": (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False), nn.ReLU()), (2, 5, 5)),
    "batch_norm_evaluating": (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4).eval()), (6,)),
    "average": (nn.Sequential(nn.Conv2d(2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(-1)), (2, 5, 5)),
    "softmax": (nn.Sequential(nn.Linear(6, 6), nn.LogSoftmax(-1)), (5, 6)),
}


@needs_training
@pytest.mark.parametrize("name", MODULES)
def test_gradients_are_those_of_torch(name: str) -> None:
    torch.manual_seed(0)
    module, shape = MODULES[name]
    assert_parity(Loss(module), [(torch.randn(rows, *shape),) for rows in (3, 7, 2)], [{0: BATCH}])


class Sequences(nn.Module):
    """Embedding, attention and cross-entropy over sequences of any length; PAD is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.output = nn.Linear(8, 11, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding(ids)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        logits = self.output(x)
        loss = F.cross_entropy(
            logits.flatten(0, 1), ids.flatten(), ignore_index=0, reduction="sum", label_smoothing=0.1
        )
        return loss, (logits.argmax(-1) == ids).sum()


@needs_training
def test_one_graph_serves_all_batches_and_lengths_and_a_tied_weight_has_one_gradient() -> None:
    torch.manual_seed(0)
    module = Sequences()
    batches = [(torch.randint(0, 11, shape),) for shape in ((3, 5), (2, 9), (6, 4))]
    assert_parity(module, batches, [{0: BATCH, 1: LENGTH}])
    graph = build(module, batches[0], [{0: BATCH, 1: LENGTH}], results=2)
    assert [name for name in names_of(graph.graph.output) if "embedding" in name or "output" in name] == [
        "embedding.weight.grad"
    ]
    dims = graph.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims] == ["batch", "length"]


class CrossEntropy(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.logits, self.options = nn.Linear(4, 7), options

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor]:
        return (F.cross_entropy(self.logits(x).transpose(1, -1), labels, **self.options).sum(),)


@needs_training
@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "sum"},
        {"ignore_index": 2},
        {"label_smoothing": 0.1, "reduction": "none", "ignore_index": 2},
        {"label_smoothing": 0.1, "weight": torch.rand(7)},
        {"label_smoothing": 0.1, "weight": torch.rand(7), "ignore_index": 2},
    ],
)
def test_cross_entropy_is_that_of_torch(options: dict[str, Any]) -> None:
    batches = [(torch.randn(rows, 3, 4), torch.arange(rows * 3).view(rows, 3) % 7) for rows in (4, 2)]
    assert_parity(CrossEntropy(**options), batches, [{0: BATCH}, {0: BATCH}])


def transformer_step(**changes: Any) -> TrainingStep:
    torch.manual_seed(0)
    nothing_dropped = {name: 0.0 for name in type(HPARAMS).model_fields if name.endswith("dropout")}
    model = Transformer(HPARAMS.replace(**(nothing_dropped | changes)), features(20, joint=False))
    return TrainingStep(model, label_smoothing=0.1).train()


def sentences(rows: int, length: int) -> Tensor:
    ids = torch.randint(3, 20, (rows, length))
    ids[0, length // 2 :] = 0  # PAD
    return ids


@needs_training
def test_the_transformers_training_step_is_that_of_torch() -> None:
    step = transformer_step()
    axes = [None, {0: BATCH, 1: Dim("source_length")}, {0: BATCH, 1: Dim("target_length")}]
    batches = [
        (torch.tensor(scale), sentences(rows, source), sentences(rows, target))
        for scale, rows, source, target in ((1.0, 5, 7, 9), (0.01, 3, 12, 6), (2.0, 8, 3, 4))
    ]
    assert_parity(step, batches, axes)


class Stopped(nn.Module):
    """Gradients go through `through` only; `seen` and `looked_at` are used behind detach and no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.through, self.seen, self.looked_at = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.through(x)
        with torch.no_grad():
            z = self.looked_at(y)
        loss = (y * self.seen(y).detach() * z + y.detach().detach() * y).sum()
        return loss, y.detach()


@needs_training
def test_detach_and_no_grad_stop_gradients() -> None:
    torch.manual_seed(0)
    assert_parity(Stopped(), [(torch.randn(rows, 4),) for rows in (3, 5)], [{0: BATCH}])


class Mixed(nn.Module):
    """One parameter is frozen, one unused; `mean` is also the name of an inner value; a buffer is used, not changed."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(4))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(2, 3))
        self.register_buffer("offset", torch.randn(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return ((x * self.mean + self.offset) * self.frozen).mean(0).sum(), self.offset


@needs_training
def test_inputs_and_outputs_are_in_order_and_what_is_unused_has_a_gradient_of_zero() -> None:
    module, batches = Mixed(), [(torch.randn(rows, 4),) for rows in (3, 5)]
    assert_parity(module, batches, [{0: BATCH}])
    graph = build(module, batches[0], [{0: BATCH}], results=2).graph
    assert names_of(graph.input) == ["input_0", "mean", "unused", "frozen", "offset"]
    assert names_of(graph.output) == ["result_0", "result_1", "mean.grad", "unused.grad"]
    assert not {tensor.name for tensor in graph.initializer} & set(names_of(graph.input))


@needs_training
def test_two_dropouts_of_one_input_drop_different_elements() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(200))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.weight * x
            difference = F.dropout(y, 0.5) - F.dropout(y, 0.5)
            return difference.square().sum(), difference

    module, x = Twice().train(), torch.ones(200)
    import_onnxruntime().set_seed(1)  # its generator gives the seeds 0 and 1 the same numbers
    found = run(build(module, (x,), [None], results=2), tensors(module) | {"input_0": x})
    assert 50 < np.count_nonzero(found["result_1"]) < 150


@needs_training
def test_dropout_drops_the_same_elements_forward_and_backward() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4000))
            self.dropout = nn.Dropout(0.25)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.dropout(self.weight * x)
            return y.sum(), y

    module, x = Dropped().train(), torch.rand(4000) + 1
    import_onnxruntime().set_seed(1)
    found = run(build(module, (x,), [None], results=2), tensors(module) | {"input_0": x})
    np.testing.assert_allclose(found["weight.grad"], found["result_1"], rtol=1e-6)
    kept = found["result_1"] != 0
    np.testing.assert_allclose(found["result_1"][kept], x.numpy()[kept] / 0.75, rtol=1e-5)
    assert abs(kept.mean() - 0.75) < 5 * (0.25 * 0.75 / 4000) ** 0.5


class Summing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)


class Choosing(nn.Module):
    """The weight is used in a branch only, so that no operator of the graph itself reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.cond(x.sum() > 0, lambda x: x * self.weight, lambda x: x + self.weight, (x,))
        return result


class Scattering(nn.Module):
    """Neighbours on axis 1 are put together."""

    def __init__(self, how: str, include_self: bool = True) -> None:
        super().__init__()
        self.how, self.include_self = how, include_self

    def forward(self, x: Tensor) -> Tensor:
        places = (torch.arange(x.size(1)) // 2).view(-1, *[1] * (x.dim() - 2)).expand_as(x)
        return torch.full_like(x, 0.3).scatter_reduce(1, places, x, self.how, include_self=self.include_self)


@needs_training
@pytest.mark.parametrize("part", [Scattering("sum"), Scattering("mean"), Scattering("mean", include_self=False)])
def test_sums_and_means_by_place(part: Scattering) -> None:
    module = Loss(nn.Sequential(nn.Linear(4, 5), part))
    assert_parity(module, [(torch.randn(3, 4),), (torch.randn(6, 4),)], [{0: BATCH}])


@needs_training
def test_random_numbers_are_inputs() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.randn_like(x) * torch.rand(x.size(0), 1) * torch.empty_like(x).bernoulli_(0.5)

    class Squares(nn.Sequential):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (super().forward(x).square().sum(),)

    module = Squares(nn.Linear(4, 5), Noisy())
    graph = build(module, (torch.randn(3, 4),), [{0: BATCH}])
    assert [spec.shape for spec in masks_as_inputs(graph)] == [("batch", 5)]
    assert [(spec.distribution, spec.shape) for spec in noise_as_inputs(graph)] == [
        ("normal", ("batch", 5)), ("uniform", ("batch", 1))
    ]  # fmt: skip
    x, normal, uniform = torch.randn(6, 4), torch.randn(6, 5), torch.rand(6, 1)
    mask = torch.randint(0, 2, (6, 5), dtype=torch.uint8)
    found = run(graph, tensors(module) | {"input_0": x, "noise_0": normal, "noise_1": uniform, "dropout_0": mask})
    loss = (module[0](x) * normal * uniform * mask).square().sum()
    loss.backward()
    expected = {"result_0": loss, "0.weight.grad": module[0].weight.grad, "0.bias.grad": module[0].bias.grad}
    assert_equal(found, expected)


@needs_training
@pytest.mark.parametrize(
    ("part", "operator"),
    [
        (Summing(), "CumSum"),
        (nn.AvgPool1d(2), "AveragePool"),
        (Choosing(), "If"),
        (Scattering("amax"), "ScatterElements(reduction=max)"),
        (Scattering("prod"), "ScatterElements(reduction=mul)"),
    ],
)
def test_an_operator_without_gradient_is_named_with_its_module(part: nn.Module, operator: str) -> None:
    module = Loss(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), part)))
    with pytest.raises(DifferentiationError) as caught:
        build(module, (torch.randn(3, 5, 4),), [{0: BATCH}])
    assert (caught.value.operator, caught.value.module_path) == (operator, "inner.1.1")
    assert "--engine torch" in str(caught.value.help)


@needs_training
def test_a_gradient_that_torch_export_forgets_is_refused() -> None:
    class Rounding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = StraightThrough.apply(x)
            return result

    with pytest.raises(DifferentiationError, match="StraightThrough") as caught:
        build(Loss(nn.Sequential(nn.Linear(4, 4), Rounding())), (torch.randn(3, 4),), [{0: BATCH}])
    assert "--engine torch" in str(caught.value.help)


@pytest.mark.skipif(AVAILABLE, reason="onnxruntime-training is in this environment")
def test_without_the_package_the_error_names_it() -> None:
    with pytest.raises(OperationalError, match="onnxruntime-training is not in this environment"):
        build(nn.Linear(2, 1), (torch.randn(3, 2),), [None])
