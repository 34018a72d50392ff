"""Products of matrices with vectors as those with matrices of one column.

onnxruntime (1.31 at least) fuses MatMul(Transpose(x), v) into one node that reads x as if it were not
transposed where v has one axis: it gives wrong numbers, without a word. A bundle's runtime is not ours to choose, so no
graph has such a product.
"""

from __future__ import annotations

from onnx_ir.passes import common as passes
from onnxscript import ir


def spell_out_vectors(model: ir.Model) -> None:
    """Makes MatMul(x, v), where v has one axis, Squeeze(MatMul(x, Unsqueeze(v))); changes `model`."""
    products = [node for node in model.graph.all_nodes() if node.op_type == "MatMul" and not node.domain]
    if any(node.inputs[1] is not None and node.inputs[1].shape is None for node in products):
        passes.ShapeInferencePass()(model)
    for node in products:
        vector = node.inputs[1]
        if vector is not None and vector.shape is not None and vector.shape.rank() == 1:
            _spell_out(node, vector)


def _spell_out(product: ir.Node, vector: ir.Value) -> None:
    graph, result = product.graph, product.outputs[0]
    assert graph is not None
    axis = ir.node("Constant", [], {"value": ir.tensor([-1])})
    column = ir.node("Unsqueeze", [vector, axis.outputs[0]])
    matrix = ir.node("MatMul", [product.inputs[0], column.outputs[0]])
    squeezed = ir.node("Squeeze", [matrix.outputs[0], axis.outputs[0]])
    new = squeezed.outputs[0]
    for node, part in ((axis, "axis"), (column, "column"), (matrix, "product")):  # graphs within graphs share names
        node.outputs[0].name = f"{result.name}/{part}"
    for node in (axis, column, matrix, squeezed):
        node.metadata_props.update(product.metadata_props)
    if vector.dtype is not None:
        column.outputs[0].dtype = matrix.outputs[0].dtype = vector.dtype
    column.outputs[0].shape = ir.Shape([*vector.shape.dims, 1]) if vector.shape is not None else None
    if result.shape is not None:
        matrix.outputs[0].shape = ir.Shape([*result.shape.dims, 1])
    ir.convenience.replace_nodes_and_values(
        graph, product, [product], [axis, column, matrix, squeezed], [result], [new]
    )
