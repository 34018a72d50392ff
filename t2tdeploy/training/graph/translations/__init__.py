"""ONNX translations (onnxscript) of ATen operators that torch.onnx lacks, or translates badly for training.

A translation is a function of an operator's arguments: tensors as ONNX values, the rest as they are. An operator in
`TABLE` reaches it whole, instead of being decomposed. `FUNCTIONS` are those that translations call, to be inlined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from t2tdeploy.export.mistranslated import MISTRANSLATED
from t2tdeploy.training.graph import gpu_cross_entropy, linear_cross_entropy
from t2tdeploy.training.graph.translations import (
    activations,
    batch_norm,
    classification,
    convolution,
    dropout,
    indexing,
    loss,
    normalization,
    pooling,
    random,
    recurrent,
    reductions,
    relu,
    softmax,
)

TABLE: dict[Any, Callable[..., Any]] = {
    **MISTRANSLATED,
    **activations.TABLE,
    **batch_norm.TABLE,
    **classification.TABLE,
    **convolution.TABLE,
    **dropout.TABLE,
    **indexing.TABLE,
    **loss.TABLE,
    **normalization.TABLE,
    **pooling.TABLE,
    **random.TABLE,
    **recurrent.TABLE,
    **reductions.TABLE,
    **relu.TABLE,
    **softmax.TABLE,
}
FUNCTIONS: tuple[onnx.FunctionProto, ...] = (
    linear_cross_entropy.onnx_function(),
    gpu_cross_entropy.onnx_function(),
    *recurrent.FUNCTIONS,
)
