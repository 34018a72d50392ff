"""Casts to float32 around operators that onnxruntime's CUDA provider does not have in bfloat16.

Without them onnxruntime would compute these on the CPU, or refuse the graph. float16 needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

# With a CUDA kernel for bfloat16 at opset 18, or none that looks at values (onnxruntime/docs/OperatorKernels.md).
_NATIVE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Exp", "Max", "Min", "Relu", "Sigmoid", "Tanh", "Where"}
    | {"MatMul", "Gemm", "Softmax", "LayerNormalization", "ReduceSum", "Dropout", "IsNaN", "Trilu", "Cast"}
    | {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Concat", "Slice", "Split", "Identity"}
    | {"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Shape", "Size"}
    | {"Constant", "ConstantOfShape", "Loop", "If", "Scan"}
)
Types = Mapping[str, int]  # value -> ONNX element type


def widened(model: ModelProto) -> ModelProto:
    """The model with those operators in float32, those of subgraphs too."""
    model = onnx.shape_inference.infer_shapes(model)
    _widen(model.graph, {})
    return model


def _widen(graph: GraphProto, outer: Types) -> None:
    types = {**outer, **_types(graph)}
    wide: dict[str, str] = {}  # bfloat16 value -> the same in float32
    nodes: list[NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _widen(attribute.g, types)
        if node.op_type in _NATIVE:
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if types.get(name) == TensorProto.BFLOAT16:
                if name not in wide:
                    wide[name] = f"{name}_float32"
                    nodes.append(helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT))
                node.input[place] = wide[name]
        nodes.append(node)
        for place, name in enumerate(node.output):
            if types.get(name) == TensorProto.BFLOAT16:
                node.output[place] = f"{name}_wide"
                nodes.append(helper.make_node("Cast", [node.output[place]], [name], to=TensorProto.BFLOAT16))
    del graph.node[:]
    graph.node.extend(nodes)


def _types(graph: GraphProto) -> dict[str, int]:
    values = chain(graph.input, graph.output, graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}
