"""What graphs around a search are made with: nodes and their constants, inputs that have a default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from t2tdeploy.bundle import DecodeDefaults, TensorSpec
from t2tdeploy.errors import OperationalError
from t2tdeploy.export.naming import rename_tensors
from t2tdeploy.features import PAD_ID

Array = npt.NDArray[Any]
Operand = str | int | bool | Sequence[int] | Array
"""The name of a tensor, or a constant: integers are int64."""

GIVEN = ("source_ids", "max_length")
"""Inputs of a search that depend on the source; all others are options."""


class Nodes:
    """Nodes in the order in which they run, and their constants. Names start with `prefix/`."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def op(self, kind: str, *operands: Operand, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Adds a node of one output (named `output`, if given); returns the output's name."""
        return self.ops(kind, *operands, outputs=[output or self._name(kind)], domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *operands: Operand, outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> Sequence[str]:
        """Adds a node; returns the names of its outputs."""
        inputs = [operand if isinstance(operand, str) else self.constant(operand) for operand in operands]
        self.nodes.append(
            helper.make_node(kind, inputs, outputs, name=self._name(kind), domain=domain or None, **attributes)
        )
        return outputs

    def constant(self, value: int | bool | Sequence[int] | Array) -> str:
        """Name of an initializer that holds `value`."""
        array = value if isinstance(value, np.ndarray) else np.array(value)
        name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _name(self, kind: str) -> str:
        return f"{self._prefix}/{kind}_{len(self.nodes)}"


def gather_rows(nodes: Nodes, ids: str, starts: str, sizes: str, *, end: int | None, output: str) -> None:
    """Rows that lie one behind the other as a padded matrix.

    Args:
        ids: name of the rows' ids [tokens].
        starts, sizes: names of where each row begins, and of how many ids to take, [batch].
        end: id to put behind every row; None: none.
        output: name of the result [batch, longest row], PAD behind shorter rows.
    """
    longest = nodes.op("ReduceMax", sizes, keepdims=0)
    width = longest if end is None else nodes.op("Add", longest, 1)
    column = nodes.op("Range", 0, width, 1)
    rows, count = nodes.op("Unsqueeze", starts, [1]), nodes.op("Unsqueeze", sizes, [1])
    behind = nodes.op("Shape", ids)  # where PAD is, and the end behind it
    bank = nodes.op("Concat", ids, [PAD_ID] if end is None else [PAD_ID, end], axis=0)
    otherwise = behind
    if end is not None:
        otherwise = nodes.op("Where", nodes.op("Equal", column, count), nodes.op("Add", behind, 1), behind)
    place = nodes.op("Where", nodes.op("Less", column, count), nodes.op("Add", rows, column), otherwise)
    nodes.op("Gather", bank, place, output=output)


def option_inputs(search: ModelProto) -> list[ValueInfoProto]:
    """The inputs of a search that say how to decode."""
    return [value for value in search.graph.input if value.name not in GIVEN]


def option_defaults(search: ModelProto, decode: DecodeDefaults, num_hypotheses: int) -> dict[str, TensorProto]:
    """Values of `option_inputs` and extra_length for a request that says nothing, as initializers.

    Raises:
        OperationalError: an input has no default.
    """
    known = {
        "beam_size": decode.beam_size,
        "alpha": decode.alpha,
        "num_hypotheses": num_hypotheses,
        "patience": decode.controls.patience,
    }
    own = {tensor.name: tensor for tensor in search.graph.initializer}
    found = {"extra_length": numpy_helper.from_array(np.array(decode.extra_length), "extra_length")}
    for value in option_inputs(search):
        if value.name in known:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            found[value.name] = numpy_helper.from_array(np.array(known[value.name], kind), value.name)
        elif value.name in own:
            found[value.name] = own[value.name]
        else:
            raise OperationalError(
                f"the search has an input '{value.name}' without a default", help="export the run with this t2tdeploy"
            )
    return found


def around(
    search: ModelProto,
    *,
    before: Nodes,
    after: Nodes | None = None,
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    defaults: Mapping[str, TensorProto],
    names: Mapping[str, str],
    domains: Sequence[str] = (),
) -> ModelProto:
    """A checked model: `search` between the nodes `before` and `after`.

    Args:
        inputs: all of the model's; those that `defaults` names need not be given.
        names: new names for tensors of `search`.
        domains: of further operators, version 1.
    """
    graph = GraphProto()
    graph.CopyFrom(search.graph)
    rename_tensors(graph, names)
    after = after or Nodes("after")
    own = [*before.constants, *after.constants, *defaults.values()]
    replaced = {tensor.name for tensor in own} | set(GIVEN)
    initializers = [*(tensor for tensor in graph.initializer if tensor.name not in replaced), *own]
    nodes = [*before.nodes, *graph.node, *after.nodes]
    model = helper.make_model(
        helper.make_graph(nodes, graph.name, inputs, outputs, initializers),
        producer_name="t2tdeploy",
        ir_version=search.ir_version,
        opset_imports=[*search.opset_import, *(helper.make_opsetid(domain, 1) for domain in domains)],
    )
    onnx.checker.check_model(model)
    return model


def specs(values: Sequence[ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a graph as a manifest records them."""
    return tuple(
        TensorSpec(name=value.name, dtype=_dtype_name(value.type.tensor_type.elem_type), axes=axes(value))
        for value in values
    )


def axes(value: ValueInfoProto) -> tuple[str | int, ...]:
    """The axes of a graph's input or output: a name for one of any size, a number for a fixed one."""
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _dtype_name(kind: int) -> str:
    if kind == TensorProto.STRING:
        return "string"
    return str(helper.tensor_dtype_to_np_dtype(kind).name)
