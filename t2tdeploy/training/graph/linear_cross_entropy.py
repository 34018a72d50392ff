"""The output layer, the loss over its vocabulary and both gradients as one operator: `t2tdeploy::linear_cross_entropy`.

Logits of a large vocabulary are the biggest tensors of a step, and autograd passes over them many times. Here the rows
go through in chunks: logits, log-probabilities and gradients of a chunk stay in the cache, and those of all rows never
exist (as in Liger Kernel's fused linear cross-entropy, Hsu et al. 2024). Rows whose label is PAD are left out.
In ONNX it is a Loop over chunks, in standard operators; this file has the one for CPUs, gpu_cross_entropy.py the other.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import parser
from torch import Tensor
from torch.nn import functional as F

from t2tdeploy.features import PAD_ID
from t2tdeploy.training.precision import DTYPES

DOMAIN, NAME = "t2tdeploy", "LinearCrossEntropy"
_CHUNK_ELEMENTS = 2**22  # logits of one chunk: 16 MiB, which caches hold; 0.5 to 2 times as many measure the same


@torch.library.custom_op("t2tdeploy::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, share: float, precision: str = "float32"
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed cross-entropy of softmax(x @ weight.T) over the labels that are not PAD, with its gradients.

    Args:
        x: [rows, hidden] float32
        weight: [vocab, hidden] float32
        labels: [rows] int64
        share: uniform smoothing; the target is 1 - share for the label plus share / vocab for every word.
        precision: in which the three products are computed; all the rest is float32.

    Returns:
        numerator [], its gradient to x [rows, hidden], and to weight [vocab, hidden]. Only the first can be
        differentiated.
    """
    real, dtype = labels != PAD_ID, DTYPES[precision]
    low_x, low_weight = x[real].to(dtype), weight.to(dtype)
    logits = (low_x @ low_weight.T).float()
    numerator = F.cross_entropy(logits, labels[real], reduction="sum", label_smoothing=share)
    difference = torch.softmax(logits, -1) - share / weight.size(0)
    difference[torch.arange(len(logits)), labels[real]] -= 1 - share
    low_difference = difference.to(dtype)
    x_gradient = torch.zeros_like(x)
    x_gradient[real] = (low_difference @ low_weight).float()
    return numerator, x_gradient, (low_difference.T @ low_x).float()


@linear_cross_entropy.register_fake
def _(
    x: Tensor, weight: Tensor, labels: Tensor, share: float, precision: str = "float32"
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(()), torch.empty_like(x), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    x_gradient, weight_gradient = ctx.saved_tensors
    return x_gradient * gradient, weight_gradient * gradient, None, None, None


linear_cross_entropy.register_autograd(_backward, setup_context=_save)


_FUNCTION = """
<opset_import: ["" : 18], domain: "t2tdeploy">
LinearCrossEntropy <kept, spread, chunk> (x, weight, labels, label_sums) => (numerator, x_gradient, weight_gradient)
{
    one = Constant <value_int = 1> ()
    axis0 = Constant <value_ints = [0]> ()
    axis1 = Constant <value_ints = [1]> ()
    yes = Constant <value = bool {1}> ()
    safe_p = Constant <value_float = 1e-30> ()
    kept_f = Constant <value_float : float = @kept> ()
    spread_f = Constant <value_float : float = @spread> ()
    largest = Constant <value_int : int = @chunk> ()

    nonzero = NonZero (labels)
    places = Transpose <perm = [1, 0]> (nonzero)
    real = Squeeze (nonzero, axis0)
    real_x = Gather <axis = 0> (x, real)
    real_labels = Gather <axis = 0> (labels, real)

    counts = Shape (real)
    count = Squeeze (counts, axis0)
    less_one = Sub (largest, one)
    rounded = Add (count, less_one)
    whole_chunks = Div (rounded, largest)
    chunks = Max (whole_chunks, one)
    chunks_less_one = Sub (chunks, one)
    count_rounded = Add (count, chunks_less_one)
    even_rows = Div (count_rounded, chunks)
    rows = Max (even_rows, one)
    padded = Mul (rows, chunks)
    missing = Sub (padded, count)
    missing_rows = Unsqueeze (missing, axis0)
    x_pads = Concat <axis = 0> (axis0, axis0, missing_rows, axis0)
    label_pads = Concat <axis = 0> (axis0, missing_rows)
    padded_x = Pad (real_x, x_pads)
    padded_labels = Pad (real_labels, label_pads)

    x_sums = ReduceSum <keepdims = 1> (real_x, axis0)
    spread_sums = Mul (x_sums, spread_f)
    kept_sums = Mul (label_sums, kept_f)
    target_sums = Add (kept_sums, spread_sums)
    start = Neg (target_sums)
    weight_t = Transpose <perm = [1, 0]> (weight)
    weight_sums = ReduceSum <keepdims = 1> (weight, axis0)
    weight_sum_column = Transpose <perm = [1, 0]> (weight_sums)

    weight_gradient, chunk_losses, chunk_x_gradients = Loop (chunks, yes, start) <body = body
        (int64 i, bool go, float[v, h] before) => (bool go_on, float[v, h] after, float[r] losses, float[r, h] gradient)
        <float[r, h] x_chunk, float[r, v] logits, float[r, v] p, float[v, h] weight_chunk>
        {
            go_on = Identity (go)
            first = Mul (i, rows)
            begin = Unsqueeze (first, axis0)
            rows_1 = Unsqueeze (rows, axis0)
            end = Add (begin, rows_1)
            x_chunk = Slice (padded_x, begin, end, axis0)
            labels_chunk = Slice (padded_labels, begin, end, axis0)
            logits = MatMul (x_chunk, weight_t)
            label_column = Unsqueeze (labels_chunk, axis1)
            label_logit = GatherElements <axis = 1> (logits, label_column)
            p = Softmax <axis = -1> (logits)
            label_p = GatherElements <axis = 1> (p, label_column)
            smallest_p = ReduceMin <keepdims = 0> (label_p)
            is_safe = Greater (smallest_p, safe_p)
            log_sum_exp = If (is_safe) <
                then_branch = by_label () => (float[r, 1] result)
                {
                    label_log_p = Log (label_p)
                    result = Sub (label_logit, label_log_p)
                },
                else_branch = by_all () => (float[r, 1] result)
                {
                    result = ReduceLogSumExp <keepdims = 1> (logits, axis1)
                }>
            logit_sum = MatMul (x_chunk, weight_sum_column)
            kept_logit = Mul (label_logit, kept_f)
            spread_logits = Mul (logit_sum, spread_f)
            target_logit = Add (kept_logit, spread_logits)
            column = Sub (log_sum_exp, target_logit)
            losses = Squeeze (column, axis1)
            gradient = MatMul (p, weight)
            p_t = Transpose <perm = [1, 0]> (p)
            weight_chunk = MatMul (p_t, x_chunk)
            after = Add (before, weight_chunk)
        }>

    everything = Constant <value_ints = [-1]> ()
    flat_losses = Reshape (chunk_losses, everything)
    real_losses = Slice (flat_losses, axis0, counts, axis0)
    numerator = ReduceSum <keepdims = 0> (real_losses)

    hidden_size = Shape <start = 1> (x)
    rows_shape = Concat <axis = 0> (everything, hidden_size)
    flat_x_gradient = Reshape (chunk_x_gradients, rows_shape)
    softmax_part = Slice (flat_x_gradient, axis0, counts, axis0)
    label_weights = Gather <axis = 0> (weight, real_labels)
    kept_weights = Mul (label_weights, kept_f)
    spread_weights = Mul (weight_sums, spread_f)
    target_weights = Add (kept_weights, spread_weights)
    real_gradient = Sub (softmax_part, target_weights)
    x_shape = Shape (x)
    no_gradient = ConstantOfShape (x_shape)
    x_gradient = ScatterND (no_gradient, places, real_gradient)
}
"""


def onnx_function() -> onnx.FunctionProto:
    """The operator in standard ONNX.

    Attributes: kept = 1 - share, spread = share / vocab, chunk (see `chunk_rows`). Its fourth input are the sums of the
    rows of x by label, [vocab, hidden], without PAD: the label's part of the gradient needs no pass over p then.
    """
    return parser.parse_function(_FUNCTION)


def chunk_rows(vocab: int) -> int:
    """Rows of logits that go through at once."""
    return max(64, _CHUNK_ELEMENTS // vocab)
