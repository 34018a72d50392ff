"""Any torch module as one ONNX graph of forward and backward, in standard operators only.

torch.export captures the forward pass, AOTAutograd (PyTorch 2, Ansel et al. 2024) differentiates it into one joint
graph of ATen operators, and torch.onnx translates that graph. Parameters and buffers are inputs of the result, so that
the file holds no weights and whoever runs it binds its own memory.

Which ATen operators reach the translation whole is decided by `translations.TABLE`: AOTAutograd decomposes nothing, and
torch.onnx only what neither it nor the table can translate.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import onnx
import torch
from onnxscript import ir
from torch import Tensor, fx, nn
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.attention import SDPBackend, sdpa_kernel

from t2tdeploy.export.quick import export_quickly
from t2tdeploy.export.undecomposed import Undecomposed
from t2tdeploy.training.graph.faults import (
    differentiation_faults,
    quiet,
    refuse_random_numbers_of_unknown_count,
    tracing_faults,
    translation_faults,
)
from t2tdeploy.training.graph.own_gradients import refusing_own_gradients
from t2tdeploy.training.graph.program import Program, as_program
from t2tdeploy.training.graph.simplify import simplified
from t2tdeploy.training.graph.substitutes import Substitutes
from t2tdeploy.training.graph.target import Target, building_for
from t2tdeploy.training.graph.translations import FUNCTIONS, TABLE
from t2tdeploy.training.graph.widen import widened
from t2tdeploy.training.precision import autocast

OPSET = 18
_CPU = Target()


class GraphNames(NamedTuple):
    """Names of a module's arguments and results in its graph.

    Args:
        inputs: one for each tensor that `forward` takes.
        outputs: one for each tensor that `forward` returns.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def joint_graph(
    module: nn.Module,
    example: Sequence[Tensor],
    dynamic_shapes: Sequence[Mapping[int, Any] | None],
    names: GraphNames,
    *,
    target: Target = _CPU,
) -> onnx.ModelProto:
    """Differentiates `module` with respect to its parameters, in the mode (train or eval) that it is in.

    Args:
        module: `module(*example)` returns a tuple of tensors, the first a scalar: what is differentiated. The others
            are outputs only.
        example: one tensor per argument; the sizes of dynamic axes must be at least 2 and should differ.
        dynamic_shapes: for each argument, axis -> torch.export.Dim. Axes of named Dims have that name in the graph.
        names: of arguments and results.
        target: what the graph is for; its precision is autocast's.

    Returns:
        a model of the standard ONNX domain without functions and without weights. Inputs: `names.inputs`, then the
        parameters that require gradients, then the other parameters and the buffers, each under its name in the module,
        a tied one under its first. Outputs: `names.outputs`, then `NAME.grad` for each parameter that requires a
        gradient (zeros if the result does not depend on it, where torch leaves `grad` None; the metadata `constant` is
        the JSON list of their names), then `NAME.new` for each buffer that `forward` changes.

    Raises:
        DifferentiationError: an operator cannot be traced, differentiated or translated.
    """
    tensors = _ModuleTensors.of(module)
    with tracing_faults(module), refusing_own_gradients(module), autocast("cpu", target.precision):
        captured = _capture(module, example, dynamic_shapes)
    inputs = _input_names(captured, tensors, names)
    # torch.export keeps operators as they are called, and AOTAutograd writes the casts of autocast out.
    with differentiation_faults(captured.graph), autocast("cpu", target.precision):
        joint = _differentiate(captured, inputs)
    refuse_random_numbers_of_unknown_count(joint.graph)
    program = as_program(joint, captured, inputs, names.outputs, tensors.trained)
    with translation_faults(joint.graph), building_for(target):
        model = _translate(program)
    model.metadata_props["constant"] = json.dumps(program.constant)
    axes = _axis_names(dynamic_shapes, names.inputs)
    with quiet():
        graph = simplified(model, [*names.inputs, *tensors.trained, *tensors.others], axes)
        return widened(graph) if target == Target("cuda", "bfloat16") else graph


class _ModuleTensors(NamedTuple):
    """A module's tensors by name.

    Args:
        trained: names of the parameters that require gradients, each once.
        others: names of the other parameters and of the buffers, each once.
        first_names: every name -> the first name of the same tensor.
    """

    trained: tuple[str, ...]
    others: tuple[str, ...]
    first_names: dict[str, str]

    @classmethod
    def of(cls, module: nn.Module) -> _ModuleTensors:
        parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        trained = tuple(name for name, parameter in parameters.items() if parameter.requires_grad)
        others = tuple(name for name in [*parameters, *buffers] if name not in set(trained))
        by_tensor = {id(tensor): name for name, tensor in [*parameters.items(), *buffers.items()]}
        every_name = [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
        return cls(trained, others, {name: by_tensor[id(tensor)] for name, tensor in every_name})


def _input_names(captured: ExportedProgram, tensors: _ModuleTensors, names: GraphNames) -> list[str]:
    """For each placeholder of the captured graph: the graph's name of an argument or tensor, or a constant's key."""
    arguments = iter(names.inputs)
    return [
        next(arguments)
        if spec.kind is InputKind.USER_INPUT
        else tensors.first_names.get(str(spec.target), str(spec.target))
        for spec in captured.graph_signature.input_specs
    ]


def _axis_names(
    dynamic_shapes: Sequence[Mapping[int, Any] | None], inputs: Sequence[str]
) -> dict[tuple[str, int], str]:
    """(input, axis) -> the name of its Dim, where it has one (Dim.AUTO and Dim.DYNAMIC have none)."""
    return {
        (name, axis): dim.__name__
        for name, axes in zip(inputs, dynamic_shapes, strict=True)
        for axis, dim in (axes or {}).items()
        if isinstance(dim, Dim)
    }


def _capture(
    module: nn.Module, example: Sequence[Tensor], dynamic_shapes: Sequence[Mapping[int, Any] | None]
) -> ExportedProgram:
    # torch.export wants the axes of the arguments grouped as `forward` groups them: *features is one tuple.
    rest = iter(dynamic_shapes)
    arguments = inspect.signature(module.forward).bind(*example).arguments
    grouped = {
        name: tuple(next(rest) for _ in value) if isinstance(value, tuple) else next(rest)
        for name, value in arguments.items()
    }
    with Substitutes(), sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(
            module,
            tuple(example),
            dynamic_shapes=grouped,
            strict=False,
            # Otherwise formulas over sizes, as those of strided convolutions, ask for ranges that suit no caller.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _differentiate(captured: ExportedProgram, inputs: Sequence[str]) -> fx.GraphModule:
    module = captured.graph_module
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    _merge_tied(placeholders, inputs)
    _separate_outputs(module.graph)
    module.recompile()
    with contextlib.ExitStack() as stack:
        arguments = tuple(node.meta["val"] for node in placeholders)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        joint: fx.GraphModule = aot_export_joint_with_descriptors(stack, module, arguments).graph_module
    return joint


def _merge_tied(placeholders: Sequence[fx.Node], inputs: Sequence[str]) -> None:
    """A tensor that the module knows by several names becomes one placeholder, so that its gradient is one sum."""
    first: dict[str, fx.Node] = {}
    for node, name in zip(placeholders, inputs, strict=True):
        if first.setdefault(name, node) is not node:
            node.replace_all_uses_with(first[name])


def _separate_outputs(graph: fx.Graph) -> None:
    """Makes every output a tensor of its own, and only the first differentiable.

    AOTAutograd otherwise treats outputs that are views of, or the same as, other tensors in ways of its own, and would
    ask for a gradient of every output.
    """
    output = graph.output_node()
    first, *others = cast("tuple[fx.Node, ...]", output.args[0])
    with graph.inserting_before(output):
        detached = [graph.call_function(torch.ops.aten.detach.default, (node,)) for node in others]
        copies = [graph.call_function(torch.ops.aten.clone.default, (node,)) for node in [first, *detached]]
    output.args = (tuple(copies),)


def _translate(program: Program) -> ir.Model:
    translated = export_quickly(
        Undecomposed.of(program.exported),
        opset_version=OPSET,
        custom_translation_table=TABLE,
        input_names=program.inputs,
        output_names=program.outputs,
        optimize=False,
    )
    model: ir.Model = translated.model
    for function in FUNCTIONS:
        own = ir.serde.deserialize_function(function)
        model.functions[own.identifier()] = own
        model.opset_imports[own.domain] = 1
    return model
