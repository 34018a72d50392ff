"""The gradient through a ReLU and the dropout behind it, from their result alone.

y = dropout(relu(x)) is above 0 just where x is and the mask keeps it. So the backward pass needs y, which the product
behind it reads anyway, and neither the mask nor relu(x): a pass less over the widest activations of a Transformer, two
of bytes instead of floats, and relu(x) is not kept between. Numbers are the same to the bit, as long as none overflows.
"""

from __future__ import annotations

import math

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.export.naming import names_read


def merge_relu_dropout(model: ModelProto) -> None:
    """Rewrites the gradients of `model` in place; call it when masks are inputs (masks.py).

    As they are written by translations/dropout.py and translations/relu.py: gradient * factor of the mask, and that
    product * (x > 0).
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    zeros = {tensor.name for tensor in graph.initializer if _is_zero(tensor)}
    results = {  # (x, mask) -> y
        (node.input[0], factor.input[0]): node.output[0]
        for node in graph.node
        if node.op_type == "Mul" and (factor := _made_by(makers, node.input[1], "DequantizeLinear"))
    }
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += _merged(node, makers, zeros, results) or [node]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)


def _merged(
    node: NodeProto, makers: dict[str, NodeProto], zeros: set[str], results: dict[tuple[str, str], str]
) -> list[NodeProto]:
    """What takes the place of a ReLU's gradient; empty: `node` is something else."""
    if node.op_type != "Mul":
        return []
    gate, undropped = _made_by(makers, node.input[1], "Cast"), _made_by(makers, node.input[0], "Mul")
    above = _made_by(makers, gate.input[0], "Greater") if gate else None
    factor = _made_by(makers, undropped.input[1], "DequantizeLinear") if undropped else None
    if not (undropped and above and factor and above.input[1] in zeros):
        return []
    y = results.get((above.input[0], factor.input[0]))
    if y is None:
        return []
    kept, byte, scaled = (f"{node.output[0]}/{part}" for part in ("kept", "byte", "factor"))
    return [
        helper.make_node("Greater", [y, above.input[1]], [kept], name=kept),
        helper.make_node("Cast", [kept], [byte], name=byte, to=TensorProto.UINT8),
        helper.make_node("DequantizeLinear", [byte, factor.input[1]], [scaled], name=scaled),
        helper.make_node("Mul", [undropped.input[0], scaled], list(node.output), name=node.name),
    ]


def _made_by(makers: dict[str, NodeProto], name: str, operator: str) -> NodeProto | None:
    """The node that makes `name`, if it is such a one."""
    node = makers.get(name)
    return node if node is not None and node.op_type == operator else None


def _is_zero(tensor: TensorProto) -> bool:
    return math.prod(tensor.dims) == 1 and not numpy_helper.to_array(tensor).any()


def _drop_unread(graph: GraphProto) -> None:
    """Removes the nodes whose results nothing reads any more."""
    read = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
            read.update(*(names_read(attribute.g) for attribute in node.attribute if attribute.HasField("g")))
    del graph.node[:]
    graph.node.extend(reversed(kept))
