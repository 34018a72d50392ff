"""ONNX translations (onnxscript) for the gradient builder of onnxruntime-training: operators that it can differentiate.

torch.onnx's own translations of these have no gradient there, or say less than the gradient needs to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxscript
import torch
from onnx import TensorProto
from onnx.defs import OpSchema

from t2tdeploy.export.mistranslated import MISTRANSLATED
from t2tdeploy.features import PAD_ID
from t2tdeploy.training.graph import linear_cross_entropy as fused
from t2tdeploy.training.graph.translations import random

op: Any = onnxscript.opset18  # Any: translations are called with what torch.onnx records
STOP_GRADIENT = "StopGradient"  # of our own domain; gradient_builder.py takes it out again


def _operator() -> onnxscript.values.Op:
    kinds = ("float", "float16", "bfloat16", "double", "int32", "int64", "bool")
    parameter, constraint = OpSchema.FormalParameter, ("T", [f"tensor({kind})" for kind in kinds], "")
    schema = OpSchema(
        STOP_GRADIENT,
        "t2tdeploy",
        1,
        inputs=[parameter("x", "T")],
        outputs=[parameter("y", "T")],
        type_constraints=[constraint],
    )
    return onnxscript.values.Op(onnxscript.values.Opset("t2tdeploy", 1), STOP_GRADIENT, schema)


_STOP = _operator()


def detach(x: Any) -> Any:
    """x, from which no gradient goes back"""
    return _STOP(x)


def batch_norm_in_training(
    x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float
) -> tuple[Any, Any, Any, Any, Any]:
    """aten._native_batch_norm_legit_functional: x normalized by its own statistics over all axes but the second.

    torch.onnx would normalize by the running statistics.

    Returns:
        result, mean [channels], 1 / standard deviation [channels], new running mean, new running variance.
    """
    if not training:
        kept = op.Identity(running_mean), op.Identity(running_var)
        return (*batch_norm(x, weight, bias, running_mean, running_var, momentum, eps), *kept)
    axes = [axis for axis in range(len(x.shape)) if axis != 1]
    over = op.Constant(value_ints=axes)
    mean = op.ReduceMean(x, over, keepdims=1)
    centred = op.Sub(x, mean)
    variance = op.ReduceMean(op.Mul(centred, centred), over, keepdims=1)
    inverse = op.Reciprocal(op.Sqrt(op.Add(variance, op.Constant(value_float=eps))))
    result = _scaled(op.Mul(centred, inverse), weight, bias, len(axes) - 1)
    count = op.Div(op.Cast(op.Size(x), to=TensorProto.FLOAT), op.Cast(op.Size(mean), to=TensorProto.FLOAT))
    one = op.Constant(value_float=1.0)
    unbiased = op.Mul(variance, op.Div(count, op.Max(op.Sub(count, one), one)))  # of a single value: 0
    mean, inverse, unbiased = (op.Reshape(row, op.Constant(value_ints=[-1])) for row in (mean, inverse, unbiased))
    return result, mean, inverse, _moved(running_mean, mean, momentum), _moved(running_var, unbiased, momentum)


def batch_norm(
    x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float
) -> tuple[Any, Any, Any]:
    """aten._native_batch_norm_legit_no_training: x normalized by running statistics; two empty tensors."""
    trailing = len(x.shape) - 2
    inverse = op.Reciprocal(op.Sqrt(op.Add(running_var, op.Constant(value_float=eps))))
    normalized = op.Mul(op.Sub(x, _column(running_mean, trailing)), _column(inverse, trailing))
    empty = op.ConstantOfShape(op.Constant(value_ints=[0]))
    return _scaled(normalized, weight, bias, trailing), empty, empty


def _scaled(x: Any, weight: Any, bias: Any, trailing: int) -> Any:
    x = _times(x, weight, trailing)
    return x if bias is None else op.Add(x, _column(bias, trailing))


def _times(x: Any, weight: Any, trailing: int) -> Any:
    return x if weight is None else op.Mul(x, _column(weight, trailing))


def _column(row: Any, trailing: int) -> Any:
    """[channels] -> [channels, 1, …], to go with [batch, channels, …]"""
    return op.Reshape(row, op.Constant(value_ints=[-1, *[1] * trailing]))


def _moved(old: Any, new: Any, momentum: float) -> Any:
    return op.Add(op.Mul(old, op.Constant(value_float=1 - momentum)), op.Mul(new, op.Constant(value_float=momentum)))


def linear_cross_entropy(
    x: Any, weight: Any, labels: Any, share: float, precision: str = "float32"
) -> tuple[Any, Any, Any]:
    """The loss alone of `linear_cross_entropy.py`, whose Loop over chunks has no gradient here.

    Returns:
        numerator [], and in the place of the gradients, which nobody reads, x and weight.
    """
    rows = op.LogSoftmax(op.MatMul(x, op.Transpose(weight, perm=[1, 0])), axis=-1)
    last = op.Constant(value_ints=[-1])
    of_labels = op.GatherElements(rows, op.Unsqueeze(labels, last), axis=1)
    vocab = int(weight.shape[0])
    log_likelihood = op.Add(
        op.Mul(of_labels, op.Constant(value_float=1 - share)),
        op.Mul(op.ReduceSum(rows, last, keepdims=1), op.Constant(value_float=share / vocab)),
    )
    real = op.Unsqueeze(op.Cast(op.Not(op.Equal(labels, op.Constant(value_int=PAD_ID))), to=TensorProto.FLOAT), last)
    return op.Neg(op.ReduceSum(op.Mul(log_likelihood, real), keepdims=0)), op.Identity(x), op.Identity(weight)


def cross_entropy(
    x: Any, labels: Any, weight: Any = None, reduction: int = 1, ignore_index: int = -100, label_smoothing: float = 0.0
) -> Any:
    """aten.cross_entropy_loss of x [batch, vocab, …] and labels [batch, …].

    torch.onnx would forget label_smoothing, and the SoftmaxCrossEntropyLoss that it writes has a gradient that fails on
    three axes.
    """
    axis = op.Constant(value_ints=[1])
    heeded = op.Not(op.Equal(labels, op.Constant(value_int=ignore_index)))
    known = op.Mul(labels, op.Cast(heeded, to=TensorProto.INT64))
    importance = op.Cast(heeded, to=TensorProto.FLOAT)
    log_p = op.LogSoftmax(x, axis=1)
    loss = op.Neg(op.Squeeze(op.GatherElements(log_p, op.Unsqueeze(known, axis), axis=1), axis))
    smooth = op.Neg(op.ReduceSum(_times(log_p, weight, len(x.shape) - 2), axis, keepdims=0))
    smooth = op.Mul(smooth, op.Constant(value_float=label_smoothing / int(x.shape[1])))
    if weight is not None:
        importance = op.Mul(importance, op.Gather(weight, known))
    loss = op.Mul(loss, op.Mul(importance, op.Constant(value_float=1 - label_smoothing)))
    loss = op.Add(loss, smooth) if label_smoothing else loss
    # Not by a weight of 0: class 0, in the place of an ignored label, may be impossible, and its loss infinite.
    loss = op.Where(heeded, loss, op.Constant(value_float=0.0))
    if reduction == 0:
        return loss
    total = op.ReduceSum(loss, keepdims=0)
    return total if reduction == 2 else op.Div(total, op.ReduceSum(importance, keepdims=0))


TABLE: dict[Any, Callable[..., Any]] = {
    **MISTRANSLATED,
    **random.TABLE,
    torch.ops.aten.cross_entropy_loss.default: cross_entropy,
    torch.ops.aten.detach.default: detach,
    torch.ops.aten._native_batch_norm_legit_functional.default: batch_norm_in_training,
    torch.ops.aten._native_batch_norm_legit_no_training.default: batch_norm,
    fused.linear_cross_entropy._opoverload: linear_cross_entropy,
}
