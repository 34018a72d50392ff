"""What TensorRT can do with a graph's operators, looked up before an engine is built.

Its parser names the first operator that it does not know, builds for minutes before it names others, and ends the
process over a few. This table names all of them at once. It is that of TensorRT 10.15 (onnx-tensorrt,
docs/operators.md), for the operators that a model may have; `tensorrt-rtx` has the same parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.errors import InputError

MIN_OPSET, MAX_OPSET = 9, 24
LARGEST_TOP_K = 3839
MOST_REFUSALS_SHOWN = 5

UNSUPPORTED = frozenset({
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad",
    "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear", "ImageDecoder",
    "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss",
    "Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch",
    "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit",
    "TfIdfVectorizer", "Unique",
})  # fmt: skip
"""Operators of ONNX; of other domains TensorRT has none."""

COMPUTED_IN = frozenset({
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.BOOL,
})  # fmt: skip
"""Types of tensors between operators. int8 and float8 exist between QuantizeLinear and DequantizeLinear only, uint8 as
the graph's inputs and outputs, and there is nothing to do with it but a Cast."""
QUANTIZED = frozenset({
    TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1,
})  # fmt: skip


class Refusal(NamedTuple):
    """A node that TensorRT cannot run, and why."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} '{self.node}': {self.reason}"


@dataclass(frozen=True)
class _Scope:
    """What is known of the tensors that a graph sees.

    Args:
        constants: name -> value, of initializers and Constant nodes.
        types: name -> element type.
        in_loop: whether the graph is the body of a Loop or Scan, or inside one.
    """

    constants: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    in_loop: bool = False

    def inner(self, graph: GraphProto, *, in_loop: bool) -> _Scope:
        """That of `graph`, which sees this one's tensors, too."""
        values = (*graph.input, *graph.output, *graph.value_info)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        given = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        given |= {
            node.output[0]: np.asarray(_value(node.attribute[0])) for node in graph.node if node.op_type == "Constant"
        }
        return _Scope(self.constants | given, self.types | types, self.in_loop or in_loop)


def refusals(model: ModelProto) -> list[Refusal]:
    """All nodes of `model`, in the bodies of Loops and branches of Ifs too, that TensorRT cannot run."""
    found = []
    for entry in model.opset_import:
        if entry.domain == "" and not MIN_OPSET <= entry.version <= MAX_OPSET:
            reason = f"operator set {entry.version}; TensorRT reads {MIN_OPSET} to {MAX_OPSET}"
            found.append(Refusal(model.graph.name, "the graph", reason))
    inferred = onnx.shape_inference.infer_shapes(model)
    return [*found, *_refusals(inferred.graph, _Scope().inner(inferred.graph, in_loop=False))]


def require_supported(model: ModelProto) -> None:
    """Checks `model` against the table.

    Raises:
        InputError: TensorRT cannot run some of its nodes; the message names them.
    """
    found = refusals(model)
    if not found:
        return
    shown = "".join(f"\n  {refusal}" for refusal in found[:MOST_REFUSALS_SHOWN])
    more = f"\n  and {len(found) - MOST_REFUSALS_SHOWN} more" if len(found) > MOST_REFUSALS_SHOWN else ""
    raise InputError(
        f"TensorRT cannot run {len(found)} node{'s' if len(found) > 1 else ''} of the graph:{shown}{more}",
        help="give it a search of fixed sizes, as export_static_search makes it, or a model of numbers, ids or images, "
        "in float32 or float16",
    )


def _refusals(graph: GraphProto, scope: _Scope) -> Iterator[Refusal]:
    for node in graph.node:
        name = node.name or (node.output[0] if node.output else "")
        for reason in _reasons(node, scope):
            yield Refusal(name, f"{node.domain}::{node.op_type}" if node.domain else node.op_type, reason)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = scope.inner(attribute.g, in_loop=node.op_type in ("Loop", "Scan"))
                yield from _refusals(attribute.g, inner)


def _reasons(node: NodeProto, scope: _Scope) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx") or node.op_type in UNSUPPORTED:
        yield "TensorRT does not have this operator"
        return
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        strange = {scope.types.get(name, 0) for name in (*node.input, *node.output)} - COMPUTED_IN - {0}
        if node.op_type == "Cast":
            strange -= {TensorProto.UINT8}
        for kind in sorted(strange):
            yield f"it has a tensor of {TensorProto.DataType.Name(kind).lower()}, in which TensorRT does not compute"
    for rule in RULES.get(node.op_type, ()):
        if reason := rule(node, scope):
            yield reason


def _constant(place: int, what: str) -> Callable[[NodeProto, _Scope], str | None]:
    """A rule: the input at `place`, if given, is known when the engine is built."""

    def rule(node: NodeProto, scope: _Scope) -> str | None:
        given = place < len(node.input) and node.input[place] != ""
        return f"its {what} is computed; it must be a constant" if given and not _known(node, place, scope) else None

    return rule


def _known(node: NodeProto, place: int, scope: _Scope) -> bool:
    return node.input[place] in scope.constants


def _top_k(node: NodeProto, scope: _Scope) -> str | None:
    if _attributes(node).get("sorted", 1) != 1:
        return "sorted must be 1"
    if not _known(node, 1, scope):
        return "its K is computed; it must be a constant"
    count = int(scope.constants[node.input[1]].item())
    return f"K is {count}; it must be at most {LARGEST_TOP_K}" if count > LARGEST_TOP_K else None


def _no_reduction(node: NodeProto, scope: _Scope) -> str | None:
    reduction = _attributes(node).get("reduction", b"none")
    return None if reduction == b"none" else f"its reduction is '{reduction.decode()}'; it must be 'none'"  # type: ignore[attr-defined]


def _non_zero(node: NodeProto, scope: _Scope) -> str | None:
    if scope.in_loop:
        return "the size of its result depends on values, which is not possible inside a Loop"
    kind = scope.types.get(node.input[0], 0)
    floats = (0, TensorProto.FLOAT, TensorProto.FLOAT16)
    return None if kind in floats else "its input must be float32 or float16"


def _symmetric(node: NodeProto, scope: _Scope) -> str | None:
    """QuantizeLinear and DequantizeLinear: int8 around zero."""
    if len(node.input) < 3 or node.input[2] == "":
        return None
    zero = scope.constants.get(node.input[2])
    if zero is None:
        return "its zero point is computed; it must be a constant"
    kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    if kind not in QUANTIZED:
        return f"it quantizes to {zero.dtype}; TensorRT has int8, int4, float8 and float4"
    return "its zero point must be 0" if np.any(zero.astype(np.float32) != 0) else None


def _if_branches(node: NodeProto, scope: _Scope) -> str | None:
    branches = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    for results in zip(*(branch.output for branch in branches), strict=True):
        shapes = [value.type.tensor_type for value in results]
        ranks = {len(kind.shape.dim) for kind in shapes if kind.HasField("shape")}
        if len(ranks) > 1:
            return f"its branches return {' and '.join(sorted(value.name for value in results))} of different ranks"
    return None


def _loop(node: NodeProto, scope: _Scope) -> str | None:
    """Carried tensors keep their shapes: an axis without size or name, or with another after a step, may change."""
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    carried = len(node.input) - 2
    if node.input[0] == "":
        return "it has no trip count"
    if len(body.output) > 1 + carried:
        return f"'{body.output[1 + carried].name}' has as many parts as steps were taken, which is known too late"
    for before, after in zip(body.input[2:], body.output[1:], strict=True):
        first, second = _axes(before), _axes(after)
        for axis, (size, next_size) in enumerate(zip(first, second, strict=False)):
            if size is None or size != next_size:
                return f"the shape of '{before.name}' may change from step to step, in axis {axis}"
        if len(first) != len(second):
            return f"the rank of '{before.name}' changes from step to step"
    return None


def _first_output_only(node: NodeProto, scope: _Scope) -> str | None:
    return "only its first output can be computed" if any(node.output[1:]) else None


def _no_cache(node: NodeProto, scope: _Scope) -> str | None:
    return "past_key, past_value and nonpad_kv_seqlen cannot be given" if any(node.input[4:]) else None


def _evaluating(node: NodeProto, scope: _Scope) -> str | None:
    if len(node.input) < 3 or node.input[2] == "":
        return None
    training = scope.constants.get(node.input[2])
    return None if training is not None and not training.any() else "its training_mode must be the constant False"


Rule = Callable[[NodeProto, _Scope], str | None]
RULES: Mapping[str, tuple[Rule, ...]] = {
    "Attention": (_no_cache,),
    "CumSum": (_constant(1, "axis"),),
    "DequantizeLinear": (_symmetric,),
    "Dropout": (_evaluating,),
    "If": (_if_branches,),
    "LayerNormalization": (_first_output_only,),
    "Loop": (_loop,),
    "NonZero": (_non_zero,),
    "OneHot": (_constant(1, "depth"),),
    "QuantizeLinear": (_symmetric,),
    "ScatterND": (_no_reduction,),
    "Squeeze": (_constant(1, "axes"),),
    "TopK": (_top_k,),
    "Unsqueeze": (_constant(1, "axes"),),
    **{
        f"Reduce{kind}": (_constant(1, "axes"),)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}


def _attributes(node: NodeProto) -> dict[str, object]:
    return {attribute.name: _value(attribute) for attribute in node.attribute if not attribute.HasField("g")}


def _value(attribute: onnx.AttributeProto) -> object:
    value = helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _axes(value: onnx.ValueInfoProto) -> list[str | int | None]:
    """Sizes or names of a tensor's axes; None where it has neither."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims]
