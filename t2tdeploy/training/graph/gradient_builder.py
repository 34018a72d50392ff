"""A torch module as one graph of forward and backward, by the gradient builder of onnxruntime-training 1.19.2.

torch.onnx translates the forward pass; `GradientGraphBuilder` (Microsoft, ONNX Runtime training) differentiates the
ONNX graph. Its gradients are operators of the domain com.microsoft, which only that package runs.

The builder follows every path from the loss to a parameter. So where torch stops gradients (`detach`, `no_grad`), the
graph is cut open before and joined again after.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxscript import ir, optimizer
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from t2tdeploy.errors import DifferentiationError
from t2tdeploy.export.exact_constants import exact_constants
from t2tdeploy.export.naming import name_axes
from t2tdeploy.export.quick import export_quickly
from t2tdeploy.runtime import import_onnxruntime
from t2tdeploy.training.graph.differentiable import STOP_GRADIENT, TABLE
from t2tdeploy.training.graph.environment import ONNXRUNTIME_TRAINING, choose_gradient_builder
from t2tdeploy.training.graph.faults import (
    refuse_random_numbers_of_unknown_count,
    tracing_faults,
    translation_faults,
)
from t2tdeploy.training.graph.joint import (
    OPSET,
    GraphNames,
    _axis_names,
    _capture,
    _ModuleTensors,
    _separate_outputs,
)
from t2tdeploy.training.graph.own_gradients import refusing_own_gradients
from t2tdeploy.training.graph.simplify import _forget_origin

_WANTED_OUTPUTS = {"LayerNormalization": 3, "Dropout": 2}  # the gradient builder reads them all, used or not
_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
# Of these the gradient fails, or kills the process, where the batch is dynamic.
_FAULTY = {"AveragePoolGrad": "AveragePool"}
_DIFFERENTIABLE_REDUCTIONS = ("none", "add")  # of scatters; of others the gradient is that of "none"


def gradient_builder_graph(
    module: nn.Module,
    example: Sequence[Tensor],
    dynamic_shapes: Sequence[Mapping[int, Any] | None],
    names: GraphNames,
) -> ModelProto:
    """Differentiates `module` with respect to its parameters. Arguments and result are as those of `joint_graph`, but
    that the operators are also of the domain com.microsoft, for onnxruntime-training only.

    Raises:
        DifferentiationError: an operator cannot be traced, translated or differentiated.
        OperationalError: onnxruntime-training is not in this environment.
    """
    choose_gradient_builder(ONNXRUNTIME_TRAINING)
    tensors = _ModuleTensors.of(module)
    with tracing_faults(module), refusing_own_gradients(module):
        captured = _functional(_capture(module, example, dynamic_shapes))
    refuse_random_numbers_of_unknown_count(captured.graph)
    changed = _changed(captured, tensors)
    with translation_faults(captured.graph):
        forward = _translated(captured, names.inputs, [*changed, *names.outputs])
    _take_parameters_as_inputs(forward.graph, module, tensors)
    _fold(forward)
    cuts = _cut(forward.graph)
    scopes = {node.name or "": _module_path(node) for node in forward.graph}
    wanted = _ancestors(forward.graph, names.outputs[0], scopes) & set(tensors.trained)
    model = _differentiated(ir.to_proto(forward), names.outputs[0], wanted, scopes)
    _join(model.graph, cuts)
    _spell_out_dropout(model.graph)
    _name_gradients(model.graph, module, tensors.trained)
    inputs = [*names.inputs, *tensors.trained, *tensors.others]
    outputs = [*names.outputs, *(f"{name}.grad" for name in tensors.trained), *changed]
    name_axes(model.graph, _axis_names(dynamic_shapes, names.inputs))
    return _arranged(model, inputs, outputs)


def _functional(captured: ExportedProgram) -> ExportedProgram:
    """The program without changes in place. Results of no_grad blocks are detached: such blocks dissolve here."""
    graph = captured.graph
    wrapped = torch.ops.higher_order.wrap_with_set_grad_enabled
    for node in graph.find_nodes(op="call_function", target=wrapped):
        if node.args[0] is False:
            for result in list(node.users):
                _detach(graph, result)
    _separate_outputs(graph)
    captured.graph_module.recompile()
    functional: ExportedProgram = captured.run_decompositions({})
    return functional


def _detach(graph: fx.Graph, node: fx.Node) -> None:
    with graph.inserting_after(node):
        detached = graph.call_function(torch.ops.aten.detach.default, (node,))
    detached.meta = dict(node.meta)
    node.replace_all_uses_with(detached, delete_user_cb=lambda user: user is not detached)


def _changed(captured: ExportedProgram, tensors: _ModuleTensors) -> list[str]:
    """NAME.new for the buffers that the forward pass changes, which the program returns before its results."""
    specs = captured.graph_signature.output_specs
    targets = [str(spec.target) for spec in specs if spec.kind is not OutputKind.USER_OUTPUT]
    return [f"{tensors.first_names.get(target, target)}.new" for target in targets]


def _translated(captured: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    for spec in captured.graph_signature.output_specs:  # what is no result of the user's would be dropped
        spec.kind, spec.target = OutputKind.USER_OUTPUT, None
    signature = captured.module_call_graph[0].signature
    assert signature is not None
    signature.out_spec = pytree.tree_structure(tuple(range(len(outputs))))
    translated = export_quickly(
        captured,
        opset_version=OPSET,
        custom_translation_table=TABLE,
        input_names=inputs,
        output_names=outputs,
        optimize=False,
    )
    return translated.model


def _take_parameters_as_inputs(graph: ir.Graph, module: nn.Module, tensors: _ModuleTensors) -> None:
    inputs: dict[str, ir.Value] = {}
    for name in [name for name in graph.initializers if name in tensors.first_names]:
        value, first = graph.initializers.pop(name), tensors.first_names[name]
        value.const_value, value.name = None, first
        if inputs.setdefault(first, value) is not value:
            value.replace_all_uses_with(inputs[first])
    by_name = dict(module.named_parameters()) | dict(module.named_buffers())
    for name in (*tensors.trained, *tensors.others):
        if name not in inputs:  # the result does not depend on it
            tensor = by_name[name].detach()
            kind = ir.TensorType(ir.tensor(tensor).dtype)
            inputs[name] = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=kind)
        graph.inputs.append(inputs[name])


def _fold(model: ir.Model) -> None:
    """Folds constants; sequences and CastLike, which have no gradient, become Split and Cast."""
    dropouts = [node for node in model.graph if node.op_type == "Dropout"]
    for number, node in enumerate(dropouts):  # those of the same input would be merged; `_spell_out_dropout` removes it
        node.attributes["seed"] = ir.AttrInt64("seed", number)
    with exact_constants():
        optimizer.optimize_ir(model)


class _Cut(NamedTuple):
    """A value that is an input while gradients are built, and what it is afterwards equal to."""

    opened: ir.Value
    source: ir.Value


def _cut(graph: ir.Graph) -> list[_Cut]:
    """Replaces every StopGradient by an input, and keeps what it read as an output."""
    cuts = []
    for node in [node for node in graph if node.op_type == STOP_GRADIENT]:
        (source,), (stopped,) = node.inputs, node.outputs
        assert source is not None
        opened = ir.Value(name=stopped.name, shape=stopped.shape, type=stopped.type)
        if stopped.is_graph_output():
            graph.outputs.remove(stopped)
        stopped.replace_all_uses_with(opened)
        graph.remove(node, safe=True)
        graph.inputs.append(opened)
        if not source.is_graph_input() and not source.is_graph_output():
            graph.outputs.append(source)
        cuts.append(_Cut(opened, source))
    return cuts


def _ancestors(graph: ir.Graph, loss: str, scopes: Mapping[str, str]) -> set[str]:
    """Names of the values that `loss` depends on through numbers that are not integers.

    Raises:
        DifferentiationError: it depends on some through a subgraph or a sequence, where the gradient builder would lose
            gradients without a word.
    """
    waiting = [value for value in graph.outputs if value.name == loss]
    found: set[str] = set()
    while waiting:
        value = waiting.pop()
        if str(value.name) in found or (value.dtype is not None and not value.dtype.is_floating_point()):
            continue
        found.add(str(value.name))
        if (producer := value.producer()) is None:
            continue
        whole = all(value.type is None or isinstance(value.type, ir.TensorType) for value in producer.outputs)
        if not whole or any(attribute.type in _SUBGRAPHS for attribute in producer.attributes.values()):
            raise _no_gradient_for(producer.op_type, producer.name or "", scopes)
        waiting += [read for read in producer.inputs if read is not None]
    return found


def _module_path(node: ir.Node) -> str:
    """The module whose forward made this node: "model.decoder.0"; empty if it is unknown or the outermost."""
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _differentiated(model: ModelProto, loss: str, wanted: set[str], scopes: Mapping[str, str]) -> ModelProto:
    """`model` with an output NAME_grad for each of `wanted`, the gradient of its output `loss`."""
    state = import_onnxruntime().capi._pybind_state
    options = state.SessionOptions()
    options.log_severity_level = 3
    for node in model.graph.node:
        missing = range(len(node.output), _WANTED_OUTPUTS.get(node.op_type, 0))
        node.output.extend(f"{node.output[0]}_output_{index}" for index in missing)
    try:
        optimized = state.get_optimized_model(model.SerializeToString(), wanted, options)
        if not wanted:
            return onnx.load_from_string(optimized)
        builder = state.GradientGraphBuilder(optimized, {loss}, wanted, loss, options)
        builder.build()
    except RuntimeError as error:
        raise _no_gradient(str(error), scopes) from error
    result = onnx.load_from_string(builder.get_model())
    of_nodes = {node.name.partition("_Grad/")[0] for node in result.graph.node if "_Grad/" in node.name}
    for node in result.graph.node:
        if node.op_type in _FAULTY:
            forward, _, _ = node.name.partition("_Grad/")
            raise _no_gradient_for(_FAULTY[node.op_type], forward, scopes)
        if node.name in of_nodes and _reduction(node) not in _DIFFERENTIABLE_REDUCTIONS:
            raise _no_gradient_for(f"{node.op_type}(reduction={_reduction(node)})", node.name, scopes)
    return result


def _reduction(node: NodeProto) -> str:
    if node.op_type not in ("ScatterElements", "ScatterND"):
        return "none"
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == "reduction"), "none")


def _no_gradient(message: str, scopes: Mapping[str, str]) -> DifferentiationError:
    found = re.search(r"gradient builder has not been registered: (\S+) for node (.*)", message)
    if found is None:
        return DifferentiationError(f"onnxruntime-training says: {message.strip()}")
    return _no_gradient_for(found[1], found[2].strip(), scopes)


def _no_gradient_for(operator: str, node: str, scopes: Mapping[str, str]) -> DifferentiationError:
    reason = f"the gradient builder of onnxruntime-training cannot differentiate it (node {node})"
    return DifferentiationError(reason, operator=operator, module_path=scopes.get(node) or None)


def _join(graph: onnx.GraphProto, cuts: Sequence[_Cut]) -> None:
    """Makes an inner value of what was opened as an input; `_arranged` takes it from the outputs if it is no result."""
    opened = {cut.opened.name for cut in cuts}
    inputs = [value for value in graph.input if value.name not in opened]
    graph.output.extend(value for value in graph.input if value.name in opened)
    del graph.input[:]
    graph.input.extend(inputs)
    graph.node.extend(helper.make_node("Identity", [str(cut.source.name)], [str(cut.opened.name)]) for cut in cuts)


def _spell_out_dropout(graph: onnx.GraphProto) -> None:
    """dx = dy * mask * scale in place of DropoutGrad, as in translations/dropout.py, so that masks can be inputs."""
    constants = _constants(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Dropout":
            del node.attribute[:]
        if node.op_type != "DropoutGrad":
            nodes.append(node)
            continue
        gradient, mask, ratio, _ = node.input
        name = node.output[0]
        scale = numpy_helper.from_array((1 / (1 - constants[ratio])).astype(constants[ratio].dtype))
        nodes += [
            helper.make_node("Constant", [], [f"{name}_scale"], value=scale),
            helper.make_node("Cast", [mask], [f"{name}_bytes"], to=TensorProto.UINT8),
            helper.make_node("DequantizeLinear", [f"{name}_bytes", f"{name}_scale"], [f"{name}_factor"]),
            helper.make_node("Mul", [gradient, f"{name}_factor"], [name]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _constants(graph: onnx.GraphProto) -> dict[str, Any]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _name_gradients(graph: onnx.GraphProto, module: nn.Module, trained: Sequence[str]) -> None:
    """NAME_grad becomes NAME.grad; where it is missing, zeros."""
    new = {f"{name}_grad": f"{name}.grad" for name in trained}
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in graph.output:
        value.name = new.get(value.name, value.name)
    there = {value.name for value in graph.output}
    types = {value.name: value.type.tensor_type for value in graph.input}
    for name in trained:
        gradient = f"{name}.grad"
        if gradient not in there:
            shape = numpy_helper.from_array(torch.tensor(module.get_parameter(name).shape).numpy(), f"{gradient}.shape")
            zero = helper.make_tensor("value", types[name].elem_type, [1], [0])
            graph.initializer.append(shape)
            graph.node.append(helper.make_node("ConstantOfShape", [shape.name], [gradient], gradient, value=zero))
            value = graph.output.add(name=gradient)
            value.type.tensor_type.CopyFrom(types[name])


def _arranged(model: ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
    """With inputs and outputs in this order, nodes in that of their dependences, and what nobody reads left out."""
    for values, order in ((model.graph.input, inputs), (model.graph.output, outputs)):
        by_name = {value.name: value for value in values}
        arranged = [by_name[name] for name in order]
        del values[:]
        values.extend(arranged)
    read = {name for node in model.graph.node for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    used = {node.domain for node in model.graph.node} | {""}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    result = ir.from_proto(model)
    result.graph.sort()
    _forget_origin(result)
    return ir.to_proto(result)
