"""The fused output layer and loss; see linear_cross_entropy.py."""

from __future__ import annotations

from typing import Any

import onnxscript
import torch
from onnx.defs import OpSchema

from t2tdeploy.features import PAD_ID
from t2tdeploy.training.graph.linear_cross_entropy import DOMAIN, NAME, chunk_rows
from t2tdeploy.training.graph.translations.rows import summed_rows
from t2tdeploy.training.graph.translations.shapes import constant, shape_of


def _operator() -> onnxscript.values.Op:
    parameter, attribute = OpSchema.FormalParameter, OpSchema.Attribute
    schema = OpSchema(
        NAME,
        DOMAIN,
        1,
        inputs=[
            parameter("x", "T"),
            parameter("weight", "T"),
            parameter("labels", "tensor(int64)"),
            parameter("label_sums", "T"),
        ],
        outputs=[parameter(name, "T") for name in ("numerator", "x_gradient", "weight_gradient")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[
            attribute("kept", OpSchema.AttrType.FLOAT, "", required=True),
            attribute("spread", OpSchema.AttrType.FLOAT, "", required=True),
            attribute("chunk", OpSchema.AttrType.INT, "", required=True),
        ],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), NAME, schema)


_OPERATOR = _operator()


def linear_cross_entropy(x: Any, weight: Any, labels: Any, share: float) -> Any:
    """A call of the function that `linear_cross_entropy.onnx_function` defines."""
    vocab = int(weight.shape[0])
    width = shape_of(weight, 1)
    label_sums = summed_rows(x, labels, constant([vocab]), width, weight.dtype, dropped=PAD_ID)
    return _OPERATOR(x, weight, labels, label_sums, kept=1.0 - share, spread=share / vocab, chunk=chunk_rows(vocab))


TABLE: dict[Any, Any] = {torch.ops.t2tdeploy.linear_cross_entropy.default: linear_cross_entropy}
