"""The gradient of ReLU."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18 as op

from t2tdeploy.training.graph.translations.shapes import constant


def threshold_backward(gradient: Any, x: Any, threshold: float) -> Any:
    """dx = dy where x > threshold, else 0: as a product, since onnxruntime's Where takes 4 times as long on CPUs."""
    return op.Mul(gradient, op.Cast(op.Greater(x, constant(threshold, x.dtype)), to=gradient.dtype))


TABLE = {torch.ops.aten.threshold_backward.default: threshold_backward}
