"""The fused output layer and loss; see linear_cross_entropy.py."""

from __future__ import annotations

from typing import Any

import onnxscript
import torch
from onnx.defs import OpSchema

from t2tdeploy.training.graph.linear_cross_entropy import DOMAIN, NAME, chunk_rows


def _operator() -> onnxscript.values.Op:
    parameter, attribute = OpSchema.FormalParameter, OpSchema.Attribute
    schema = OpSchema(
        NAME,
        DOMAIN,
        1,
        inputs=[parameter("x", "T"), parameter("weight", "T"), parameter("labels", "tensor(int64)")],
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
    return _OPERATOR(x, weight, labels, kept=1.0 - share, spread=share / vocab, chunk=chunk_rows(vocab))


TABLE: dict[Any, Any] = {torch.ops.t2tdeploy.linear_cross_entropy.default: linear_cross_entropy}
