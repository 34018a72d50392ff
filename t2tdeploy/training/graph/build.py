"""From a model to its training graph: what is exported, how inputs and outputs are called, what the manifest says."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import onnx
import torch
from onnx import ModelProto, helper
from onnxscript import ir
from torch import Tensor
from torch.export import Dim

from t2tdeploy.errors import DifferentiationError, UserError
from t2tdeploy.export.naming import rename_tensors
from t2tdeploy.export.quick import without_garbage_collection
from t2tdeploy.export.quiet import quiet_exporter
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.model import Model
from t2tdeploy.training.graph.environment import ONNXRUNTIME_TRAINING, PORTABLE
from t2tdeploy.training.graph.faults import evaluation_faults
from t2tdeploy.training.graph.forward import forward_graph
from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from t2tdeploy.training.graph.manifest import (
    CORRECT,
    DENOMINATOR,
    LOGITS,
    LOSS_SCALE,
    NUMERATOR,
    Drawn,
    Manifest,
    MaskSpec,
    NoiseSpec,
    TensorSpec,
)
from t2tdeploy.training.graph.masks import masks_as_inputs
from t2tdeploy.training.graph.noise import noise_as_inputs
from t2tdeploy.training.graph.packed import INSTEAD, PackedText, find_tokens, packed_features
from t2tdeploy.training.graph.relu_dropout import merge_relu_dropout
from t2tdeploy.training.graph.same_bodies import require_same_bodies
from t2tdeploy.training.graph.step import EvaluationStep, TrainingStep, constant_buffers
from t2tdeploy.training.graph.target import Target
from t2tdeploy.training.graph.training_graph import TrainingGraph

_PACKAGES = ("t2tdeploy", "torch", "onnx", "onnxscript")
_PREFIX, _SCALED = "model.", "scaled_loss"
_BATCH, _LENGTHS, _TOKENS = 5, range(17, 2**16, 2), range(16, 2**16, 2)
"""Of the example: sizes that differ, so that axes are told apart."""
_FEW = range(4, 2**16)
"""Lengths of the example that is computed."""
_BATCH_AXIS = "batch"

Differentiate = Callable[..., ModelProto]
_CPU = Target()


def build_training_graph(
    model: Model, *, label_smoothing: float, target: Target = _CPU, builder: str = PORTABLE
) -> TrainingGraph:
    """Differentiates `model` and exports its evaluation; leaves it in the mode it was in.

    Args:
        model: on the CPU, whatever the target is.
        builder: one of `environment.gradient_builders()`.

    Raises:
        DifferentiationError: an operator of the model cannot be differentiated or translated; see `joint_graph`.
        UserError: its `body` or `packed_body` returned what cannot be, or they compute different things.
    """
    packed = _packed_texts(model, packed_features(model, builder, target))
    was_training, options = model.training, _Options(label_smoothing, target, builder)
    try:
        with quiet_exporter(), without_garbage_collection():
            training, drawn = _training(model, options, packed)
            evaluation = _evaluation(model)
    finally:
        model.train(was_training)
    return TrainingGraph(training, evaluation, _manifest(training, model, builder, target, drawn))


class _Options(NamedTuple):
    label_smoothing: float
    target: Target
    builder: str


def _training(model: Model, options: _Options, packed: Mapping[str, PackedText]) -> tuple[ModelProto, Sequence[Drawn]]:
    """The graph and its random inputs."""
    step = TrainingStep(
        model, label_smoothing=options.label_smoothing, precision=options.target.precision, packed=tuple(packed)
    )
    try:
        require_same_bodies(model.eval(), tuple(packed), _example(model, _FEW))  # first, for it takes no time
        training = _differentiated(step.train(), _differentiation(options.builder, options.target), packed)
        drawn: list[Drawn] = [*masks_as_inputs(training), *noise_as_inputs(training)]
        merge_relu_dropout(training)
        return training, find_tokens(training, packed, drawn) if packed else drawn
    except DifferentiationError as error:
        if packed and _can_be_built(model, options):
            error.help = f"{error.help}; or {INSTEAD}"
        raise


def _can_be_built(model: Model, options: _Options) -> bool:
    """Whether there is a graph that computes padding."""
    try:
        _training(model, options, {})
    except UserError:
        return False
    return True


def _differentiated(step: TrainingStep, differentiate: Differentiate, packed: Mapping[str, PackedText]) -> ModelProto:
    model = step.model
    places = [torch.arange(count) for count in _TOKENS[: len(packed)]]
    training = differentiate(
        step,
        (torch.tensor(1.0), *_example(model).values(), *places),
        (None, *_dynamic_shapes(model), *({0: Dim(text.tokens)} for text in packed.values())),
        GraphNames(
            (LOSS_SCALE, *model.features, *(text.places for text in packed.values())),
            (_SCALED, NUMERATOR, DENOMINATOR),
        ),
    )
    _rename(training)
    _embed(training, constant_buffers(model))
    return training


def _evaluation(model: Model) -> ModelProto:
    step = EvaluationStep(model).eval()
    with evaluation_faults(step):
        evaluation = forward_graph(
            step,
            tuple(_example(model).values()),
            _dynamic_shapes(model),
            GraphNames(tuple(model.features), _evaluation_outputs(model)),
        )
    # torch.onnx states a wrong shape for cross-entropy, of which onnxruntime would warn; it infers its own.
    del evaluation.graph.value_info[:]
    _rename(evaluation)
    _embed(evaluation, constant_buffers(model))
    return evaluation


def _differentiation(builder: str, target: Target) -> Differentiate:
    if builder == ONNXRUNTIME_TRAINING:
        from t2tdeploy.training.graph.gradient_builder import gradient_builder_graph

        return gradient_builder_graph
    return partial(joint_graph, target=target)


def _evaluation_outputs(model: Model) -> tuple[str, ...]:
    return (NUMERATOR, DENOMINATOR, CORRECT, *(() if model.autoregressive else (LOGITS,)))


def _example(model: Model, of_texts: Sequence[int] = _LENGTHS) -> dict[str, Tensor]:
    generator, lengths = torch.Generator().manual_seed(0), iter(of_texts)

    def example(spec: FeatureSpec) -> Tensor:
        def integers(most: int, *shape: int, least: int = 0) -> Tensor:
            return torch.randint(least, most, (_BATCH, *shape), generator=generator)

        match spec.modality:
            case Modality.SYMBOL:
                return integers(spec.vocab_size, next(lengths), least=1)
            case Modality.CLASS_LABEL:
                return integers(len(spec.classes))
            case Modality.MULTI_LABEL:
                return integers(2, len(spec.classes)).float()
            case Modality.REAL:
                return torch.randn((_BATCH, *spec.shape), generator=generator)
            case Modality.IMAGE:
                return integers(256, *spec.shape).to(torch.uint8)
            case Modality.CATEGORY:
                return integers(spec.vocab_size)

    return {name: example(spec) for name, spec in model.features.items()}


def _dynamic_shapes(model: Model) -> tuple[dict[int, Any], ...]:
    batch, names = Dim(_BATCH_AXIS), _axis_names(model)
    return tuple(
        {0: batch, 1: Dim(f"{names[name]}_length")} if spec.modality is Modality.SYMBOL else {0: batch}
        for name, spec in model.features.items()
    )


def _packed_texts(model: Model, packed: Sequence[str]) -> dict[str, PackedText]:
    names, taken = _axis_names(model), {*model.features}
    found = {}
    for feature in packed:
        places = _free(f"{feature}.places", taken)
        axis = names[feature]
        found[feature] = PackedText(places, f"{axis}_tokens", f"{_BATCH_AXIS}*{axis}_length")
    return found


def _axis_names(model: Model) -> dict[str, str]:
    """Feature -> how names of its axes begin: torch wants identifiers, which the names of columns need not be."""
    taken: set[str] = set()
    found = {}
    for feature in model.features:
        spelled = re.sub(r"[^0-9a-zA-Z_]", lambda one: f"_{ord(one[0]):x}_", feature)
        found[feature] = _free(re.sub(r"^(?=\d)", "_", spelled), taken)
    return found


def _free(name: str, taken: set[str]) -> str:
    """The name, with underscores behind it if it is taken; it is then."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _rename(model: ModelProto) -> None:
    """Gives parameters their names in the model itself; drops the scaled loss, only there to be differentiated."""
    graph = model.graph
    kept = [output for output in graph.output if output.name != _SCALED]
    del graph.output[:]
    graph.output.extend(kept)
    new = {value.name: value.name.removeprefix(_PREFIX) for value in [*graph.input, *graph.output]}
    for value in [*graph.input, *graph.output]:
        value.name = new[value.name]
    for tensor in graph.initializer:  # a gradient of zeros may be one
        tensor.name = new.get(tensor.name, tensor.name)
    rename_tensors(graph, new)


def _embed(model: ModelProto, values: Mapping[str, Tensor]) -> None:
    """Makes constants of these inputs, but for those that the graph changes."""
    graph = model.graph
    changed = {value.name.removesuffix(".new") for value in graph.output}
    for value in list(graph.input):
        if value.name in values and value.name not in changed:
            graph.input.remove(value)
            constant = ir.tensor(values[value.name].detach().cpu().contiguous(), name=value.name)
            graph.initializer.append(ir.to_proto(constant))


def _manifest(graph: ModelProto, model: Model, builder: str, target: Target, drawn: Sequence[Drawn]) -> Manifest:
    specs = {value.name: _spec(value) for value in graph.graph.input}
    outputs = {value.name for value in graph.graph.output}
    trained = [name for name in specs if f"{name}.grad" in outputs]
    others = {LOSS_SCALE, *model.features, *trained, *(spec.name for spec in drawn)}
    fixed = [name for name in specs if name not in others]
    return Manifest.create(
        {
            "builder": builder,
            **target._asdict(),
            "features": [specs[name] for name in model.features],
            "parameters": [specs[name] for name in trained],
            "fixed": [specs[name] for name in fixed],
            "masks": [spec for spec in drawn if isinstance(spec, MaskSpec)],
            "noise": [spec for spec in drawn if isinstance(spec, NoiseSpec)],
            "changed": [name for name in fixed if f"{name}.new" in outputs],
            "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
        }
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in kind.shape.dim)
    dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)
