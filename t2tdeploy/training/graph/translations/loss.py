"""The fused output layer and loss; see linear_cross_entropy.py and gpu_cross_entropy.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxscript
import torch
from onnx.defs import OpSchema

from t2tdeploy.features import PAD_ID
from t2tdeploy.training.graph import gpu_cross_entropy
from t2tdeploy.training.graph.linear_cross_entropy import DOMAIN, NAME, chunk_rows
from t2tdeploy.training.graph.target import Target, current_target
from t2tdeploy.training.graph.translations.rows import summed_rows
from t2tdeploy.training.graph.translations.shapes import constant, shape_of


def _operator(name: str, more_inputs: Sequence[str] = (), more_attributes: Sequence[str] = ()) -> Any:
    """The operator that a function of this name defines."""
    parameter, attribute, kind = OpSchema.FormalParameter, OpSchema.Attribute, OpSchema.AttrType
    schema = OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[
            parameter("x", "T"),
            parameter("weight", "T"),
            parameter("labels", "tensor(int64)"),
            *(parameter(one, "T") for one in more_inputs),
        ],
        outputs=[parameter(one, "T") for one in ("numerator", "x_gradient", "weight_gradient")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[
            *(attribute(one, kind.FLOAT, "", required=True) for one in ("kept", "spread")),
            *(attribute(one, kind.INT, "", required=True) for one in ("chunk", *more_attributes)),
        ],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), name, schema)


_ON_CPU = _operator(NAME, more_inputs=["label_sums"])
_ON_GPU = _operator(gpu_cross_entropy.NAME, more_attributes=["low"])


def linear_cross_entropy(x: Any, weight: Any, labels: Any, share: float, precision: str = "float32") -> Any:
    """A call of the function that `linear_cross_entropy` or `gpu_cross_entropy` defines."""
    vocab = int(weight.shape[0])
    shares = {"kept": 1.0 - share, "spread": share / vocab}
    if current_target() != Target():
        low = int(gpu_cross_entropy.LOW_TYPES[precision])
        return _ON_GPU(x, weight, labels, **shares, chunk=gpu_cross_entropy.chunk_rows(vocab), low=low)
    width = shape_of(weight, 1)
    label_sums = summed_rows(x, labels, constant([vocab]), width, weight.dtype, dropped=PAD_ID)
    return _ON_CPU(x, weight, labels, label_sums, **shares, chunk=chunk_rows(vocab))


TABLE: dict[Any, Any] = {torch.ops.t2tdeploy.linear_cross_entropy.default: linear_cross_entropy}
