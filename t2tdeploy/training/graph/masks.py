"""Dropout masks as inputs of a graph.

onnxruntime draws the masks of its Dropout operator from a generator whose state cannot be saved, one element at a time.
Here every Dropout becomes an input mask and a product. Whoever runs the graph draws the masks, so that a resumed run
goes on with the masks of the uninterrupted one, and on a CPU that is several times faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.errors import DifferentiationError
from t2tdeploy.training.graph.manifest import Axis, MaskSpec

_LEVELS = 2**16  # of rates: an element's number of 16 random bits decides


def dropout_threshold(rate: float) -> int:
    """An element is dropped if its 16 random bits are below this: the rate to the nearest of 65 536 levels."""
    return min(round(rate * _LEVELS), _LEVELS - 1)


def masks_as_inputs(model: ModelProto) -> list[MaskSpec]:
    """Replaces every Dropout of `model` by a product with a mask, a new input `dropout_N` of uint8: 1 keeps, 0 drops.
    Where nothing but a Dropout's mask is read, as translations/random.py writes it, there is no product.

    The factor 1 / (1 - rate) is that of the rate which `dropout_threshold` makes possible, so that means are exact.
    The mask is turned into a factor twice, forward and backward, so that only its bytes stay in memory between.

    Returns:
        the masks, in the order of the new inputs.

    Raises:
        DifferentiationError: the shape of a mask is not known.
    """
    graph = model.graph
    constants, shapes = _constants(model), axes_in(graph)
    read = _names_read(graph.node) | {output.name for output in graph.output}
    specs: list[MaskSpec] = []
    mask_of: dict[str, str] = {}  # the Dropout's second output, and what was cast from it -> input
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Dropout":
            rate = float(constants[node.input[1]])
            shape = drawn_shape(shapes, node.input[0], node.output[0])
            spec = MaskSpec(name=f"dropout_{len(specs)}", rate=rate, shape=shape)
            specs.append(spec)
            if len(node.output) > 1:
                mask_of[node.output[1]] = spec.name
            nodes += _product(model, node, spec) if node.output[0] in read else []
        elif node.op_type == "Cast" and node.input[0] in mask_of and node.attribute[0].i == TensorProto.UINT8:
            mask_of[node.output[0]] = mask_of[node.input[0]]
        else:
            nodes.append(node)
    graph.input.extend(helper.make_tensor_value_info(spec.name, TensorProto.UINT8, [*spec.shape]) for spec in specs)
    scales = {spec.name: _scale_name(spec) for spec in specs}
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in mask_of:
            node.input[1] = scales[mask_of[node.input[0]]]
        node.input[:] = [mask_of.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused_initializers(graph)
    return specs


def _product(model: ModelProto, dropout: NodeProto, spec: MaskSpec) -> list[NodeProto]:
    graph = model.graph
    scale = _scale_name(spec)
    if all(initializer.name != scale for initializer in graph.initializer):
        kept = 1.0 - dropout_threshold(spec.rate) / _LEVELS
        graph.initializer.append(helper.make_tensor(scale, TensorProto.FLOAT, [], [1.0 / kept]))
    factor = f"{spec.name}_factor"
    # The zero point is written out here and not in the backward pass: equal nodes would be merged, and their float
    # result would be kept from one to the other.
    zero = "dropout_zero"
    if all(initializer.name != zero for initializer in graph.initializer):
        graph.initializer.append(helper.make_tensor(zero, TensorProto.UINT8, [], [0]))
    return [
        helper.make_node("DequantizeLinear", [spec.name, scale, zero], [factor], name=factor),
        helper.make_node("Mul", [dropout.input[0], factor], [dropout.output[0]], name=dropout.name),
    ]


def _drop_unused_initializers(graph: GraphProto) -> None:
    """The rates, of which onnxruntime would warn."""
    used = {output.name for output in graph.output} | _names_read(graph.node)
    kept = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _names_read(nodes: Iterable[NodeProto]) -> set[str]:
    """By these nodes and in their subgraphs."""
    names = {name for node in nodes for name in node.input}
    subgraphs = [attribute.g for node in nodes for attribute in node.attribute if attribute.HasField("g")]
    for subgraph in subgraphs:
        names |= _names_read(subgraph.node) | {output.name for output in subgraph.output}
    return names


def _scale_name(spec: MaskSpec) -> str:
    return f"dropout_scale_{dropout_threshold(spec.rate)}"


def _constants(model: ModelProto) -> dict[str, float]:
    """Scalar constants by name."""
    tensors: Iterable[tuple[str, TensorProto]] = [
        *((initializer.name, initializer) for initializer in model.graph.initializer),
        *(
            (node.output[0], attribute.t)
            for node in model.graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        ),
    ]
    found = {name: numpy_helper.to_array(tensor) for name, tensor in tensors}
    scalars = {name: float(array.item()) for name, array in found.items() if array.size == 1}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value_float":
            scalars[node.output[0]] = node.attribute[0].f
    return scalars


def axes_in(graph: GraphProto) -> dict[str, tuple[Axis, ...]]:
    """The shapes of a graph's tensors by name, as far as they are known: an axis of unknown size is 0."""
    values = {value.name: value.type.tensor_type for value in [*graph.value_info, *graph.input, *graph.output]}
    return {name: _axes(kind) for name, kind in values.items()} | {
        tensor.name: tuple(tensor.dims) for tensor in graph.initializer
    }


def drawn_shape(shapes: Mapping[str, tuple[Axis, ...]], *names: str) -> tuple[Axis, ...]:
    """The shape of random numbers, which is that of the first of these tensors whose axes are all known.

    Raises:
        DifferentiationError: there is none.
    """
    for name in names:
        if name in shapes and all(shapes[name]):
            return shapes[name]
    raise DifferentiationError("the graph does not say how many random numbers it draws")


def _axes(tensor_type: onnx.TypeProto.Tensor) -> tuple[Axis, ...]:
    return tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in tensor_type.shape.dim)
