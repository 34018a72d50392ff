"""Training graphs for GPUs and for 16 bits equal torch's autocast, as far as a CPU can run them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import GraphProto, TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_hparams import TransformerHParams
from t2tdeploy.training.graph.build import build_training_graph
from t2tdeploy.training.graph.step import TrainingStep
from t2tdeploy.training.graph.target import Target
from t2tdeploy.training.graph.training_graph import TrainingGraph
from t2tdeploy.training.graph.widen import _NATIVE
from t2tdeploy.training.precision import autocast
from tests.training.graph.parity import run

VOCAB = 30
HPARAMS = TransformerHParams.create(
    {"hidden_size": 16, "filter_size": 24, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
    | {"dropout": 0.0, "attention_dropout": 0.0, "relu_dropout": 0.2}
)
TARGETS = [Target("cuda", "float16"), Target("cuda", "bfloat16")]
TOLERANCE = {"float16": 1e-2, "bfloat16": 6e-2}
over_targets = pytest.mark.parametrize("target", TARGETS, ids="-".join)


class DequantizeLinear(OpRun):
    """Of opset 13, which onnx's reference leaves out."""

    op_domain = ""

    def _run(self, x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, **_: object) -> tuple[np.ndarray]:
        return ((x.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))) * scale,)


def new_model() -> Transformer:
    torch.manual_seed(3)
    features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", VOCAB) for name in ("inputs", "targets")}
    return Transformer(HPARAMS, features)


@cache
def graph(target: Target) -> TrainingGraph:
    return build_training_graph(new_model(), label_smoothing=0.1, target=target)


def feed(model: Transformer, target: Target) -> dict[str, Tensor]:
    """Parameters, a batch with pads, masks that keep everything."""
    torch.manual_seed(4)
    batch = {"inputs": torch.randint(1, VOCAB, (4, 5)), "targets": torch.randint(1, VOCAB, (4, 6))}
    batch["inputs"][1, 3:] = batch["targets"][2, 4:] = 0
    axes = {"batch": 4, "inputs_length": 5, "targets_length": 6}
    masks = {
        mask.name: torch.ones([axes.get(axis, axis) for axis in mask.shape], dtype=torch.uint8)
        for mask in graph(target).manifest.masks
    }
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {**batch, **masks, **parameters, "loss_scale": torch.tensor(0.25)}


def expected(model: Transformer, target: Target, given: dict[str, Tensor], kept: float) -> dict[str, Tensor]:
    """By torch under autocast, every element kept and scaled."""
    step = TrainingStep(model, label_smoothing=0.1, precision=target.precision)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and module.p:
            module.forward = lambda x: x / kept  # type: ignore[method-assign]
    with autocast("cpu", target.precision):
        scaled, numerator, denominator = step(given["loss_scale"], given["inputs"], given["targets"])
    scaled.backward()
    gradients = {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
    return {"numerator": numerator, "denominator": denominator, **gradients}


def assert_near(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """By the norm of the difference; 16 bits have no more to say of a single element."""
    whole = sum(float(value.norm()) ** 2 for name, value in wanted.items() if name.endswith(".grad")) ** 0.5
    for name, value in wanted.items():
        difference = float((found[name] - value).norm())
        scale = max(float(value.norm()), 1e-2 * whole if name.endswith(".grad") else 0.0)
        assert difference <= tolerance * scale, (name, difference, scale)


@over_targets
def test_loss_and_gradients_are_those_of_autocast(target: Target) -> None:
    model = new_model()
    given = feed(model, target)
    built = graph(target)
    (rate,) = {mask.rate for mask in built.manifest.masks}
    wanted = expected(model, target, given, 1 - rate)
    if target.precision == "bfloat16":  # onnxruntime has none on CPUs
        evaluator = ReferenceEvaluator(built.training, new_ops=[DequantizeLinear])
        arrays = evaluator.run(None, {value.name: given[value.name].numpy() for value in built.training.graph.input})
        names = [value.name for value in built.training.graph.output]
        found = dict(zip(names, map(torch.tensor, arrays), strict=True))
    else:
        found = {name: torch.tensor(array) for name, array in run(built.training, given).items()}
    assert [*found] == [*wanted]
    assert_near(found, wanted, TOLERANCE[target.precision])


@over_targets
def test_what_goes_in_and_out_is_float32(target: Target) -> None:
    built = graph(target)
    onnx.checker.check_model(built.training, full_check=True)
    kinds = {value.type.tensor_type.elem_type for value in built.training.graph.output}
    assert kinds == {TensorProto.FLOAT}
    assert {spec.dtype for spec in built.manifest.parameters} == {"float32"}
    assert (built.manifest.device, built.manifest.precision) == target


@over_targets
def test_products_are_computed_in_the_precision(target: Target) -> None:
    """All but sums over rows and the means of layer normalization, one operand of which is a vector."""
    low = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
    inferred = onnx.shape_inference.infer_shapes(graph(target).training)
    products = [
        types[node.input[0]] == low[target.precision]
        for part, types in graphs(inferred.graph, {})
        for node in part.node
        if node.op_type in ("MatMul", "Gemm")
    ]
    assert products.count(True) > 40


def graphs(part: GraphProto, outer: dict[str, int]) -> Iterator[tuple[GraphProto, dict[str, int]]]:
    """A graph and its subgraphs, with the types of what each can see."""
    values = [*part.input, *part.output, *part.value_info]
    types = {**outer, **{value.name: value.type.tensor_type.elem_type for value in values}}
    types |= {tensor.name: tensor.data_type for tensor in part.initializer}
    yield part, types
    for node in part.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g, types)


def test_bfloat16_meets_only_operators_that_cuda_has() -> None:
    inferred = onnx.shape_inference.infer_shapes(graph(Target("cuda", "bfloat16")).training)
    for part, types in graphs(inferred.graph, {}):
        for node in part.node:
            kinds = {types.get(name) for name in [*node.input, *node.output] if name}
            assert node.op_type in _NATIVE or TensorProto.BFLOAT16 not in kinds, node.op_type


def test_a_graph_for_a_gpu_asks_for_nothing_that_is_slow_there() -> None:
    """No sort, no place by value, no branch: the CPU would wait for each."""
    for part, _ in graphs(graph(Target("cuda", "bfloat16")).training.graph, {}):
        assert not {"TopK", "NonZero", "If", "CastLike"} & {node.op_type for node in part.node}
