"""The joint graph of AOTAutograd as a program that torch.onnx translates whole.

torch.onnx keeps what a program's signature calls the user's inputs and outputs, and makes the rest weights of the file
or drops it. So here everything is the user's: parameters, buffers, gradients, changed buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._functorch._aot_autograd.descriptors import GradAOTOutput, InputMutationAOTOutput, PlainAOTOutput
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from t2tdeploy.errors import DifferentiationError


class Program(NamedTuple):
    """A program.

    Args:
        exported: the program.
        inputs: names of its inputs, in its own order.
        outputs: names of its outputs.
        constant: names of those to differentiate by that the result does not depend on.
    """

    exported: ExportedProgram
    inputs: list[str]
    outputs: list[str]
    constant: list[str]


def as_program(
    joint: fx.GraphModule,
    captured: ExportedProgram,
    inputs: Sequence[str],
    results: Sequence[str],
    trained: Sequence[str],
) -> Program:
    """Makes a program of the joint graph, which it changes.

    Args:
        joint: what aot_export_joint_with_descriptors made of `captured`: its inputs and one tangent, for the first
            result.
        captured: the forward pass.
        inputs: a name for each of its inputs; a tied parameter has the same name each time.
        results: names of the forward pass's results.
        trained: names of the inputs to differentiate by.

    Returns:
        the program. Its inputs are those of the forward pass but for constants, its outputs the results, NAME.grad for
        each of `trained`, NAME.new for each input that the forward pass changes.

    Raises:
        DifferentiationError: the joint graph has other inputs than the forward pass and one gradient.
    """
    graph = joint.graph
    *placeholders, tangent = graph.find_nodes(op="placeholder")
    if len(placeholders) != len(inputs):
        raise DifferentiationError(
            "AOTAutograd wants more of it than its inputs and one gradient, as where the forward pass changes a "
            "parameter or the state of random numbers (Embedding(max_norm=…), writing to a parameter under no_grad, "
            "torch.utils.checkpoint without use_reentrant=False), and of some operators, such as torch.linalg.inv"
        )
    outputs = _outputs(graph.output_node(), inputs, results)
    with graph.inserting_before(graph.output_node()):
        constant = [name for name in trained if f"{name}.grad" not in outputs]
        for name in constant:
            outputs[f"{name}.grad"] = _filled(graph, placeholders[inputs.index(name)], 0.0)
    with graph.inserting_after(tangent):
        tangent.replace_all_uses_with(_filled(graph, tangent, 1.0))
    graph.erase_node(tangent)
    changed = [name for name in outputs if name.endswith(".new")]
    names = [*results, *(f"{name}.grad" for name in trained), *changed]
    _return(graph, [outputs[name] for name in names])
    arguments = _distinct(placeholders, inputs, captured)
    graph.eliminate_dead_code()
    joint.recompile()
    own = [argument.name for argument in arguments if argument.kind is not InputKind.CONSTANT_TENSOR]
    return Program(_program(joint, captured, arguments), own, names, constant)


class _Argument(NamedTuple):
    """A placeholder of the joint graph, with the name and kind of what it stands for."""

    node: fx.Node
    name: str
    kind: InputKind


def _distinct(placeholders: Sequence[fx.Node], inputs: Sequence[str], captured: ExportedProgram) -> list[_Argument]:
    """The placeholders, without those of tied parameters after the first, which have no users."""
    found: dict[str, _Argument] = {}
    specs = captured.graph_signature.input_specs
    for node, name, spec in zip(placeholders, inputs, specs, strict=True):
        if name in found:
            node.graph.erase_node(node)
        else:
            found[name] = _Argument(node, name, spec.kind)
    return [*found.values()]


def _outputs(output: fx.Node, inputs: Sequence[str], results: Sequence[str]) -> dict[str, fx.Node]:
    """Output name -> node, by the descriptions that AOTAutograd leaves on them."""
    found: dict[str, fx.Node] = {}
    for node, description in zip(output.args[0], output.meta["desc"], strict=True):  # type: ignore[arg-type]
        if node is None:
            continue
        match description:
            case PlainAOTOutput(idx):
                found[results[idx]] = node
            case GradAOTOutput(source):
                found[f"{inputs[source.idx]}.grad"] = node  # type: ignore[attr-defined]
            case InputMutationAOTOutput(source):
                found[f"{inputs[source.idx]}.new"] = node  # type: ignore[attr-defined]
    return found


def _filled(graph: fx.Graph, like: fx.Node, value: float) -> fx.Node:
    """A new node: a constant of the shape and type of `like`, which are fixed."""
    tensor = like.meta["val"]
    return _call(graph, torch.ops.aten.full.default, ([*tensor.shape], value), dtype=tensor.dtype)


def _call(graph: fx.Graph, target: Any, args: tuple[Any, ...], **kwargs: Any) -> fx.Node:
    node = graph.call_function(target, args, kwargs)
    values = fx.map_arg(args, lambda argument: argument.meta["val"])
    mode = detect_fake_mode([placeholder.meta["val"] for placeholder in graph.find_nodes(op="placeholder")])
    assert mode is not None
    with mode:
        node.meta["val"] = target(*values, **kwargs)
    return node


def _return(graph: fx.Graph, nodes: Sequence[fx.Node]) -> None:
    """Returns `nodes`; a value of an ONNX graph has one name, so what is an input or returned twice is copied."""
    output = graph.output_node()
    distinct: list[fx.Node] = []
    with graph.inserting_before(output):
        for node in nodes:
            taken = node in distinct or node.op == "placeholder"
            distinct.append(_call(graph, torch.ops.aten.clone.default, (node,)) if taken else node)
    output.args = (tuple(distinct),)


def _program(joint: fx.GraphModule, captured: ExportedProgram, arguments: Sequence[_Argument]) -> ExportedProgram:
    constant = InputKind.CONSTANT_TENSOR
    constants = {
        argument.name: captured.constants[argument.name] for argument in arguments if argument.kind is constant
    }
    input_specs = [
        InputSpec(constant, TensorArgument(node.name), name)
        if kind is constant
        else InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None)
        for node, name, kind in arguments
    ]
    returned: tuple[fx.Node, ...] = joint.graph.output_node().args[0]  # type: ignore[assignment]
    output_specs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in returned]
    taken = tuple(range(len(arguments) - len(constants)))
    signature = ModuleCallSignature(
        inputs=[],
        outputs=[],
        in_spec=pytree.tree_structure((taken, {})),
        out_spec=pytree.tree_structure(tuple(range(len(returned)))),
    )
    return ExportedProgram(
        root=joint,
        graph=joint.graph,
        graph_signature=ExportGraphSignature(input_specs, output_specs),
        state_dict={},
        range_constraints=captured.range_constraints,
        module_call_graph=[ModuleCallEntry("", signature)],
        constants=constants,
    )
