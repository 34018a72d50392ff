"""torch.onnx.export for programs that need not be decomposed.

torch.onnx traces every program once more to decompose its operators. That is much of the export's time, and gives the
same program again where all of them have translations.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import torch
from onnxscript import ir, opset18
from torch import fx, nn
from torch.export import ExportedProgram

from t2tdeploy.export.mistranslated import MISTRANSLATED
from t2tdeploy.export.quick import export_quickly

op: Any = opset18  # its annotations are those of eager calls, not of values in a graph


def to_onnx(
    module: nn.Module,
    args: tuple[Any, ...],
    *,
    dynamic_shapes: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
    optimize: bool = True,
) -> torch.onnx.ONNXProgram:
    """What `torch.onnx.export(module, args, …, dynamo=True)` makes, without decomposing where that is not needed.

    Raises:
        torch.onnx.OnnxExporterError: an operator cannot be expressed in ONNX.
    """
    options: dict[str, Any] = {
        "input_names": inputs,
        "output_names": outputs,
        "opset_version": opset,
        "optimize": optimize,
    }
    try:
        captured = Undecomposed.of(_captured(module, args, dynamic_shapes))
        return export_quickly(captured, custom_translation_table=TRANSLATIONS, **options)
    except Exception:  # an operator without translation in no table, or what cannot be traced: the long way says which
        return export_quickly(
            module, args, dynamic_shapes=dynamic_shapes, custom_translation_table=MISTRANSLATED, **options
        )


def _captured(module: nn.Module, args: tuple[Any, ...], dynamic_shapes: Any) -> ExportedProgram:
    # As torch.onnx does it: a dynamic axis may also have the size 0 or 1, and what a formula over sizes asks of them is
    # asked at run time.
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            module,
            args,
            dynamic_shapes=dynamic_shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


class Undecomposed(ExportedProgram):
    """A program that decomposes itself only where one of its operators has to be, or writes into its input."""

    @classmethod
    def of(cls, program: ExportedProgram) -> Undecomposed:
        """The same program, which it changes: each size is computed once, as decomposing would leave it."""
        _merge_sizes(program.graph)
        program.graph_module.recompile()
        return cls(
            root=program.graph_module,
            graph=program.graph,
            graph_signature=program.graph_signature,
            state_dict=program.state_dict,
            range_constraints=program.range_constraints,
            module_call_graph=program.module_call_graph,
            example_inputs=program.example_inputs,
            constants=program.constants,
            verifiers=program.verifiers,
        )

    def run_decompositions(self, decomp_table: Any = None, **options: Any) -> ExportedProgram:
        """As torch's; the program itself if that would not change it.

        Args:
            decomp_table: operator -> its decomposition; None: torch's own.
        """
        if decomp_table is not None and not any(_must(node, decomp_table) for node in _nodes(self.graph_module)):
            return self
        decomposed: ExportedProgram = super().run_decompositions(decomp_table, **options)
        return decomposed


def _merge_sizes(graph: fx.Graph) -> None:
    """Sizes and products of sizes that are equal by their formulas become one node."""
    first: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        value = node.meta.get("val")
        computed = node.op == "call_function" and isinstance(value, torch.SymInt)
        if computed and first.setdefault(value.node.expr, node) is not node:
            node.replace_all_uses_with(first[value.node.expr])
            graph.erase_node(node)


def _nodes(module: fx.GraphModule) -> Iterator[fx.Node]:
    """Of all graphs: bodies of loops and branches are modules of their own."""
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            yield from part.graph.nodes


def _must(node: fx.Node, table: Container[Any]) -> bool:
    operator = node.target
    if node.op != "call_function" or not isinstance(operator, torch._ops.OpOverload):
        return False
    return operator in table or operator._schema.is_mutable


def _to_dtype(x: Any, dtype: int, non_blocking: bool = False, copy: bool = False, memory_format: Any = None) -> Any:
    """aten.to.dtype"""
    return op.Identity(x) if x.dtype == dtype else op.Cast(x, to=dtype)


def _bitwise(name: str) -> Callable[..., Any]:
    """aten.__and__ and the like, of tensors: `name` or Bitwise`name` by their type"""

    def translation(x: Any, other: Any) -> Any:
        if x.dtype != other.dtype:
            raise NotImplementedError(f"{x.dtype} and {other.dtype}: the types differ")
        return getattr(op, name if x.dtype == ir.DataType.BOOL else f"Bitwise{name}")(x, other)

    return translation


def _divide(x: Any, other: Any, rounding_mode: str | None = None) -> Any:
    """aten.div with a rounding_mode, of int64, which torch.onnx divides as floats; others go the long way."""
    if rounding_mode != "trunc" or x.dtype != ir.DataType.INT64:
        raise NotImplementedError(f"{x.dtype}, rounding_mode = {rounding_mode}")
    return op.Div(x, other)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.to.dtype: _to_dtype,
    torch.ops.aten.div.Tensor_mode: _divide,
    torch.ops.aten.div.Scalar_mode: _divide,
    torch.ops.aten.__and__.Tensor: _bitwise("And"),
    torch.ops.aten.__or__.Tensor: _bitwise("Or"),
    torch.ops.aten.__xor__.Tensor: _bitwise("Xor"),
    **MISTRANSLATED,
}
"""Of common operators that torch.onnx can only decompose, and of those."""
