"""Clean-up of a translated graph: what torch.onnx writes for its own convenience, and onnxruntime would pay for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import onnx
from onnx_ir.passes import common as passes
from onnxscript import ir, optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

from t2tdeploy.export.naming import name_axes

_RULES = [
    rules.transpose_transpose_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.no_op_expand_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
]
_RANDOM = ("Dropout", "RandomUniformLike", "RandomNormalLike")


def simplified(model: ir.Model, inputs: Sequence[str], axes: Mapping[tuple[str, int], str]) -> onnx.ModelProto:
    """The model inlined and folded, with its inputs in the order of `inputs` and its axes named.

    Args:
        model: all of whose graph's inputs are named in `inputs`; changed in place.
        axes: (input, axis) -> name, for dynamic axes.
    """
    by_name = {value.name: value for value in model.graph.inputs}
    model.graph.inputs.clear()
    model.graph.inputs.extend(by_name[name] for name in inputs)
    outputs = [value.name for value in model.graph.outputs]
    _fold(model)
    # Results that turned out to be the same have lost their names.
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    _forget_origin(model)
    proto = ir.to_proto(model)
    name_axes(proto.graph, axes)
    return proto


def _fold(model: ir.Model) -> None:
    # What onnxscript.optimizer does, with those of its rules that have something to do here: a tenth of the time.
    passes.InlinePass()(model)
    model.functions.clear()
    for infer in (True, False):
        optimizer.fold_constants_ir(model, onnx_shape_inference=infer, should_fold=_should_fold)
        rewriter.RewritePass(_RULES)(model)
        passes.RemoveUnusedNodesPass()(model)
    _apply(
        model,
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
    )
    _merge_equal(model)
    _apply(model, passes.RemoveUnusedNodesPass(), passes.RemoveUnusedOpsetsPass(), passes.OutputFixPass())
    _apply(model, passes.NameFixPass())


def _should_fold(node: ir.Node) -> bool | None:
    """Not a random operator: where its input is a constant, it would be drawn once for ever."""
    return False if node.op_type in _RANDOM else None


def _apply(model: ir.Model, *chosen: ir.passes.InPlacePass) -> None:
    for one in chosen:
        one(model)


def _merge_equal(model: ir.Model) -> None:
    """Computes once what is the same, but never takes two random masks for one, as onnx_ir's pass alone would."""
    random = [node for node in model.graph.all_nodes() if node.op_type in _RANDOM]
    for number, node in enumerate(random):
        node.attributes["seed"] = ir.AttrInt64("seed", number)
    passes.CommonSubexpressionEliminationPass()(model)
    for node in random:
        node.attributes.pop("seed")


def _forget_origin(model: ir.Model) -> None:
    """Removes the notes of torch.onnx about every node and value: most of the file, and paths of this machine."""
    graph = model.graph
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    for value in chain(graph.inputs, graph.initializers.values()):
        value.metadata_props.clear()
