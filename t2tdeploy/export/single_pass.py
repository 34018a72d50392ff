"""A model without a search as one ONNX graph: features in, logits and probabilities, or values, out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_gemm_rule
from torch import Tensor

from t2tdeploy.columns.fit import require_graph_names
from t2tdeploy.errors import InputError
from t2tdeploy.export.forward import Axes, Example, trace
from t2tdeploy.export.naming import name_axes
from t2tdeploy.export.weights import multiply_weights, share_weights
from t2tdeploy.features import IMAGE_CHANNELS, PAD_ID, FeatureSpec, Modality, graph_outputs
from t2tdeploy.models.model import Model

ROWS = 3  # of the batch to trace with; no axis of another meaning may have the same size
FIRST_LENGTH = 7

OUTPUTS = ("logits", "probabilities", "values")

Batch = Mapping[str, npt.NDArray[Any]]


def graph_input(spec: FeatureSpec) -> str:
    """The graph's input of a feature: its name, but of ids, and where an output has it."""
    if spec.modality is Modality.SYMBOL:
        return f"{spec.name}_ids"
    return f"{spec.name}_input" if spec.name in OUTPUTS and spec.column is None else spec.name


def length_axis(name: str) -> str:
    """The axis of a text's ids."""
    return "source_length" if name == "inputs" else f"{name}_length"


def graph_axes(spec: FeatureSpec) -> Axes:
    """The axes of a feature's input."""
    if spec.modality is Modality.SYMBOL:
        return ("batch", length_axis(spec.name))
    shape = (len(spec.classes),) if spec.modality is Modality.MULTI_LABEL else spec.shape
    return ("batch", *shape)


def inputs_of(model: Model) -> dict[str, FeatureSpec]:
    """The features that the model is given, in its order."""
    return {name: spec for name, spec in model.features.items() if name != model.target}


def output_names(model: Model) -> tuple[str, ...]:
    """Of the graph."""
    return graph_outputs(model.features[model.target])


def export_single_pass(model: Model, batch: Batch, *, temperature: float = 1.0) -> onnx.ModelProto:
    """Traces `model`; batch normalisation that follows a convolution or a dense layer becomes part of its weights.

    Args:
        batch: real examples, feature -> array as features.py says; at least one.
        temperature: that logits are divided by before they become probabilities.

    Raises:
        InputError: a column has no name or that of an output, or an image another number of channels than bundles take.
        torch.onnx.OnnxExporterError: the model has an operator that ONNX cannot express.
    """
    model.eval()
    inputs = inputs_of(model)
    require_graph_names(inputs, model.features[model.target])
    for name, spec in inputs.items():
        if spec.modality is Modality.IMAGE and spec.shape[-1] not in IMAGE_CHANNELS:
            raise InputError(
                f"image '{name}' has {spec.shape[-1]} channels; a bundle takes images of 1 or 3",
                help=f"declare it as numbers: FeatureSpec('{name}', Modality.REAL, shape={spec.shape})",
            )
    examples = []
    length = FIRST_LENGTH
    for name, spec in inputs.items():
        examples.append(Example(graph_input(spec), _rows(batch[name], spec, length), graph_axes(spec)))
        length += 4
    graph = trace(_served(model, list(inputs), temperature), examples, output_names(model), model)
    folded = rewrite(graph, pattern_rewrite_rules=[fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_gemm_rule])
    multiply_weights(folded.graph)
    share_weights(folded.graph)
    name_axes(
        folded.graph,
        {(one.name, axis): name for one in examples for axis, name in enumerate(one.axes) if isinstance(name, str)},
    )
    onnx.checker.check_model(folded)
    return folded


def _served(model: Model, names: Sequence[str], temperature: float) -> Callable[..., tuple[Tensor, ...]]:
    modality = model.features[model.target].modality

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        found = model(dict(zip(names, tensors, strict=True))).float()
        if modality is Modality.REAL:
            return (found,)
        scaled = found / temperature
        chances = scaled.sigmoid() if modality is Modality.MULTI_LABEL else scaled.softmax(-1)
        return found, chances

    return function


def _rows(values: npt.NDArray[Any], spec: FeatureSpec, length: int) -> Tensor:
    """ROWS of the examples; of text at least as long as `length`, and of a length that is no other axis's."""
    rows = np.resize(np.arange(len(values)), ROWS)
    found = torch.from_numpy(np.ascontiguousarray(values[rows]))
    if spec.modality is not Modality.SYMBOL:
        return found
    cut = found[:, :length]
    return torch.nn.functional.pad(cut, (0, length - cut.size(1)), value=PAD_ID)
