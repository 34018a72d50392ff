"""Reshapes that copy sizes instead of computing them.

torch.onnx computes every dynamic size of a Reshape's result: a Shape, a Slice and a Concat for each, which cost more
than the Reshape when decoding a single sentence. ONNX can say "as in the input" (0) and "whatever is left" (-1).
"""

from __future__ import annotations

import numpy as np
from onnx_ir.passes import common as passes
from onnxscript import ir


def simplify_reshapes(model: ir.Model) -> None:
    """Rewrites, in place, those Reshapes whose result has at most one size that is not the input's."""
    for node in model.graph:
        if node.op_type != "Reshape" or node.domain != "":
            continue
        sizes = _sizes(node.inputs[0], node.outputs[0])
        if sizes is not None:
            name = f"{node.outputs[0].name}_sizes"
            value = ir.Value(name=name, const_value=ir.tensor(np.array(sizes, np.int64), name=name))
            model.graph.register_initializer(value)
            node.replace_input_with(1, value)
            node.attributes.pop("allowzero", None)
    passes.RemoveUnusedNodesPass()(model)


def _sizes(before: ir.Value | None, after: ir.Value) -> list[int] | None:
    """What Reshape shall be told; None if that is not enough for it."""
    if before is None or before.shape is None or after.shape is None:
        return None
    sizes = []
    for axis, size in enumerate(after.shape):
        if isinstance(size, int):
            sizes.append(size)
        else:
            same = axis < len(before.shape) and size.value is not None and before.shape[axis] == size
            sizes.append(0 if same else -1)
    fixed_to_nothing = any(size == 0 for size in after.shape)
    return None if sizes.count(-1) > 1 or fixed_to_nothing else sizes
