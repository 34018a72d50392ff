"""What a training graph's inputs and outputs are, and that they compute what the model computes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import pytest
import torch
from torch import Tensor

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.model import Model
from t2tdeploy.training.graph.build import build_training_graph
from t2tdeploy.training.graph.obtain import obtain_training_graph
from t2tdeploy.training.graph.step import EvaluationStep, TrainingStep
from t2tdeploy.training.graph.training_graph import TrainingGraph
from tests.models.tiny import features, padded, random_sources
from tests.training.graph.parity import Scaled, assert_equal, autograd, masks_of, run, tensors
from tests.training.graph.small_model import HPARAMS, VOCAB, Small

SMOOTHING = 0.1


@pytest.fixture(scope="module")
def graph() -> TrainingGraph:
    model = Small(HPARAMS.replace(dropout=0.25)).eval()
    built = build_training_graph(model, label_smoothing=SMOOTHING)
    assert not model.training
    return built


def batch(seed: int, rows: int) -> dict[str, Tensor]:
    return {
        "inputs": padded(random_sources(VOCAB, seed, rows)),
        "targets": padded(random_sources(VOCAB, seed + 1, rows)),
    }


def feed(graph: TrainingGraph, model: Small, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All inputs but the scale; every mask keeps everything."""
    return {**tensors(model), **features, **masks_of(graph.manifest, features, least=1)}


def test_the_manifest_names_every_input_and_output(graph: TrainingGraph) -> None:
    manifest, model = graph.manifest, Small()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [spec.name for spec in manifest.parameters] == trained
    assert {spec.name: spec.shape for spec in manifest.parameters} == {
        name: tuple(tensor.shape) for name, tensor in model.named_parameters() if tensor.requires_grad
    }
    running = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert {spec.name for spec in manifest.fixed} == {"frozen", *running}
    assert set(manifest.changed) == set(running)
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.features] == [
        ("inputs", "int64", ("batch", "inputs_length")),
        ("targets", "int64", ("batch", "targets_length")),
    ]
    assert [(spec.name, spec.rate, spec.shape) for spec in manifest.masks] == [
        ("dropout_0", 0.25, ("batch", "targets_length", 8))
    ]
    inputs = (*manifest.features, *manifest.parameters, *manifest.fixed, *manifest.masks)
    named = {spec.name for spec in inputs}
    assert {value.name for value in graph.training.graph.input} == {"loss_scale", *named}
    results = [f"{name}.grad" for name in trained] + [f"{name}.new" for name in manifest.changed]
    assert {value.name for value in graph.training.graph.output} == {"numerator", "denominator", *results}
    assert [value.name for value in graph.evaluation.graph.output] == ["numerator", "denominator", "correct"]
    assert {"t2tdeploy", "torch", "onnx"} <= manifest.versions.keys()


def test_the_graphs_are_standard_onnx_without_weights(graph: TrainingGraph) -> None:
    for model in (graph.training, graph.evaluation):
        onnx.checker.check_model(model, full_check=True)
        assert {opset.domain for opset in model.opset_import} == {""}
        assert not model.functions
    inside = {tensor.name for tensor in graph.training.graph.initializer}
    assert "ramp" in inside  # a constant that the model made, which no checkpoint holds
    assert not inside & set(tensors(Small()).keys() - {"ramp"})


def test_gradients_and_changed_buffers_are_torch_s_for_every_shape(graph: TrainingGraph) -> None:
    for seed, rows in ((1, 5), (7, 2), (9, 1)):
        model, features = Small(), batch(seed, rows)  # without dropout: masks keep everything, times 4/3
        step = TrainingStep(model, label_smoothing=SMOOTHING).train()
        model.dropout = Scaled()
        inputs = {**feed(graph, model, features), "loss_scale": torch.tensor(0.25)}
        found = run(graph.training, inputs)
        wanted = autograd(step, (torch.tensor(0.25), *features.values()), ["scaled", "numerator", "denominator"])
        wanted = {name.removeprefix("model."): value for name, value in wanted.items() if name != "scaled"}
        assert_equal({name: found[name] for name in wanted}, wanted)
        assert found.keys() == wanted.keys()


def test_the_evaluation_is_torch_s(graph: TrainingGraph) -> None:
    model, features = Small().eval(), batch(3, 4)
    with torch.no_grad():
        numerator, denominator, correct = EvaluationStep(model)(*features.values())
    found = run(graph.evaluation, feed(graph, model, features))
    assert found["numerator"] == pytest.approx(numerator.item(), rel=1e-5)
    assert (found["denominator"], found["correct"]) == (denominator.item(), correct.item())


def test_a_rate_of_nothing_has_no_mask() -> None:
    assert obtain_training_graph(Small(), HPARAMS).manifest.masks == ()


class Unused(Small):
    """A layer, and a text, that nothing uses, under names that torch would not take for an axis."""

    def __init__(self) -> None:
        Model.__init__(self, HPARAMS, {**{name: text(name) for name in ODD}, **features(VOCAB)})
        self.unused = torch.nn.Linear(3, 4)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return features["targets"]


ODD = ("a b", "a_b", "a\u00b2", "1")


def text(name: str) -> FeatureSpec:
    return FeatureSpec(name, Modality.SYMBOL, name, 9)


def test_what_nothing_uses_has_a_gradient_of_zeros() -> None:
    model = Unused()
    graph = build_training_graph(model, label_smoothing=SMOOTHING)
    given = {name: torch.ones(2, length, dtype=torch.int64) for length, name in enumerate(model.features, start=1)}
    found = run(graph.training, {**tensors(model), **given, "loss_scale": torch.tensor(1.0)})
    unused = [name for name, _ in model.named_parameters() if "shared" not in name]
    assert {"unused.weight", "unused.bias"} < set(unused)
    assert all((found[f"{name}.grad"] == 0).all() for name in unused)
    assert (found["modalities.shared.weight.grad"] != 0).any()
