"""The ONNX function of `linear_cross_entropy` for GPUs and for 16 bits.

That for CPUs waits for the GPU to hear how many rows are real and which way its `If` goes, and works on small chunks.
Here chunks are large, PAD's rows go along and are multiplied by zero, and nothing depends on values. Products are
computed in the type `low`; log-probabilities, sums over rows and gradients are float32. A label's probability has its
target subtracted before it becomes 16 bits, which would lose the difference of two numbers near 1.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, parser

NAME = "GpuLinearCrossEntropy"
LOW_TYPES = {"float32": TensorProto.FLOAT, "bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16}
_CHUNK_ELEMENTS = 2**26  # logits of one chunk: 256 MiB

_FUNCTION = """
<opset_import: ["" : 18], domain: "t2tdeploy">
GpuLinearCrossEntropy <kept, spread, chunk, low> (x, weight, labels) => (numerator, x_gradient, weight_gradient)
{
    one = Constant <value_int = 1> ()
    pad = Constant <value_int = 0> ()
    axis0 = Constant <value_ints = [0]> ()
    axis1 = Constant <value_ints = [1]> ()
    everything = Constant <value_ints = [-1]> ()
    yes = Constant <value = bool {1}> ()
    kept_f = Constant <value_float : float = @kept> ()
    spread_f = Constant <value_float : float = @spread> ()
    largest = Constant <value_int : int = @chunk> ()

    counts = Shape (labels)
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
    padded_x = Pad (x, x_pads)
    more_labels = Expand (pad, missing_rows)
    padded_labels = Concat <axis = 0> (labels, more_labels)
    is_pad = Equal (padded_labels, pad)
    is_real = Not (is_pad)
    mask = Cast <to = 1> (is_real)
    mask_column = Unsqueeze (mask, axis1)
    real_x = Mul (padded_x, mask_column)
    low_x = Cast <to : int = @low> (real_x)
    low_weight = Cast <to : int = @low> (weight)
    low_weight_t = Transpose <perm = [1, 0]> (low_weight)

    x_sums = ReduceSum <keepdims = 1> (real_x, axis0)
    spread_sums = Mul (x_sums, spread_f)
    negative_sums = Neg (spread_sums)
    weight_shape = Shape (weight)
    start = Expand (negative_sums, weight_shape)

    weight_gradient, chunk_losses, chunk_x_gradients = Loop (chunks, yes, start) <body = body
        (int64 i, bool go, float[v, h] before)
        => (bool go_on, float[v, h] after, float[r, 1] losses, float[r, h] gradient)
        {
            go_on = Identity (go)
            first = Mul (i, rows)
            begin = Unsqueeze (first, axis0)
            rows_1 = Unsqueeze (rows, axis0)
            end = Add (begin, rows_1)
            x_chunk = Slice (low_x, begin, end, axis0)
            labels_chunk = Slice (padded_labels, begin, end, axis0)
            label_column = Unsqueeze (labels_chunk, axis1)
            low_logits = MatMul (x_chunk, low_weight_t)
            logits = Cast <to = 1> (low_logits)
            log_p = LogSoftmax <axis = -1> (logits)
            label_log_p = GatherElements <axis = 1> (log_p, label_column)
            log_p_sum = ReduceSum <keepdims = 1> (log_p, axis1)
            kept_log_p = Mul (label_log_p, kept_f)
            spread_log_p = Mul (log_p_sum, spread_f)
            target_log_p = Add (kept_log_p, spread_log_p)
            losses = Neg (target_log_p)
            p = Exp (log_p)
            label_p = Exp (label_log_p)
            label_difference = Sub (label_p, kept_f)
            difference = ScatterElements <axis = 1> (p, label_column, label_difference)
            low_difference = Cast <to : int = @low> (difference)
            low_gradient = MatMul (low_difference, low_weight)
            gradient = Cast <to = 1> (low_gradient)
            low_difference_t = Transpose <perm = [1, 0]> (low_difference)
            low_chunk = MatMul (low_difference_t, x_chunk)
            weight_chunk = Cast <to = 1> (low_chunk)
            after = Add (before, weight_chunk)
        }>

    flat_losses = Reshape (chunk_losses, everything)
    real_losses = Mul (flat_losses, mask)
    numerator = ReduceSum <keepdims = 0> (real_losses)

    hidden_size = Shape <start = 1> (x)
    rows_shape = Concat <axis = 0> (everything, hidden_size)
    flat_gradient = Reshape (chunk_x_gradients, rows_shape)
    weight_sums = ReduceSum <keepdims = 1> (weight, axis0)
    spread_weights = Mul (weight_sums, spread_f)
    full_gradient = Sub (flat_gradient, spread_weights)
    real_gradient = Mul (full_gradient, mask_column)
    x_gradient = Slice (real_gradient, axis0, counts, axis0)
}
"""


def onnx_function() -> onnx.FunctionProto:
    """The operator in standard ONNX.

    Attributes: kept = 1 - share, spread = share / vocab, chunk (see `chunk_rows`), low (ONNX element type of products).
    """
    return parser.parse_function(_FUNCTION)


def chunk_rows(vocab: int) -> int:
    """Rows of logits that go through at once."""
    return max(64, _CHUNK_ELEMENTS // vocab)
