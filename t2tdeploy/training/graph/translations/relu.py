"""The gradient of ReLU."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18 as op

from t2tdeploy.training.graph.translations.shapes import constant


def threshold_backward(gradient: Any, x: Any, threshold: float) -> Any:
    """dx = dy where x > threshold, else 0: as a product, since onnxruntime's Where takes 4 times as long on CPUs, but
    not where dy may be infinite, as behind a square root, for infinity times 0 is not a number."""
    above = op.Greater(x, constant(threshold, x.dtype))
    if _is_bounded(gradient):
        return op.Mul(gradient, op.Cast(above, to=gradient.dtype))
    return op.Where(above, gradient, constant(0.0, gradient.dtype))


def _is_bounded(value: Any) -> bool:
    """Whether a gradient is surely that of a product with weights, but for what moves, adds and drops numbers: as
    large as the gradient behind that at most, which a training step has finite everywhere or fails."""
    open_values, seen = [value], set()
    while open_values:
        node = open_values.pop().producer()
        if node is None or node in seen or node.op_type in _PRODUCTS or node.op_type in _FACTORS:
            continue
        seen.add(node)
        if node.op_type in _ADDED:
            open_values += node.inputs
        elif node.op_type in _MOVED:
            open_values.append(node.inputs[0])
        else:
            return False
    return True


_PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
_FACTORS = {"Constant", "DequantizeLinear", "Greater", "Equal", "Not"}
_ADDED = {"Add", "Sum", "Mul", "Concat"}
_MOVED = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Identity", "Cast", "Slice"}


TABLE = {torch.ops.aten.threshold_backward.default: threshold_backward}
