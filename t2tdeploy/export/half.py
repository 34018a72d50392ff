"""A search in float16 for GPUs: what leads into matrix products is half as wide, what comes after them stays float32.

Mixed precision as in Micikevicius et al. 2018, on a finished graph. Starting from the products, the pass walks against
the flow of data, through operators that are safe in float16, and through the state that a Loop carries (so caches are
float16 too). It stops at all others: positions and their sines, reductions, and whatever reaches a product only as
token ids. Log-softmax, scores, length penalty and the choice of the beam come after the last product and stay float32.

The graph stays standard ONNX. Its inputs and outputs keep their types.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.export.naming import names_read

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
LARGEST_HALF = 65504.0
SMALLEST_HALF = float(np.finfo(np.float16).smallest_subnormal)

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "Einsum"})
# Moving, scaling and squashing numbers. GPUs compute Softmax and LayerNormalization of float16 in float32 inside.
SAFE = frozenset({
    "Add", "Clip", "Concat", "Div", "Erf", "Expand", "Gather", "GatherElements", "Gelu", "Identity",
    "LayerNormalization", "Max", "Min", "Mul", "Neg", "Pad", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split",
    "Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
MOVES = frozenset({"Concat", "Gather", "Identity"})  # of branches, as of the If that lengthens the past of caches
INDIFFERENT = frozenset({"Shape", "Size"})  # read any type


def halved(model: ModelProto) -> ModelProto:
    """A copy of a search graph (see export/beam_search.py) in float16 where that is safe.

    The branches of an If stay float32, but where they only move numbers and all of them to where float16 is wanted.

    Raises:
        onnx.checker.ValidationError: the result is not valid.
    """
    copy = onnx.shape_inference.infer_shapes(model)
    root = _Scope(copy.graph)
    _Rewriter(root, _Choice(root)).rewrite()
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _Scope:
    """A graph: the whole one, or the body of a Loop, which sees the names of the graph around it."""

    def __init__(self, graph: GraphProto, around: _Scope | None = None, loop: NodeProto | None = None) -> None:
        self.graph, self.around, self.loop = graph, around, loop
        self.nodes = list(graph.node)  # kept, for nodes are told apart by identity
        self.types = {value.name: value.type.tensor_type.elem_type for value in _values(graph)}
        self.types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and (tensor := _constant(node)) is not None:
                self.constants[node.output[0]] = tensor
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.bodies = {id(node): _Scope(_body(node), self, node) for node in self.nodes if node.op_type == "Loop"}

    def home(self, name: str) -> _Scope | None:
        """The scope in which `name` is a tensor."""
        if name in self.maker or name in self.constants or name in self.inputs:
            return self
        return self.around.home(name) if self.around else None

    def floats(self, node: NodeProto) -> Iterator[tuple[int, str, _Scope]]:
        """The float32 inputs of `node`: place, name, and where they are made."""
        for place, name in enumerate(node.input):
            home = self.home(name) if name else None
            if home is not None and home.types.get(name) == FLOAT:
                yield place, name, home

    def reads(self, node: NodeProto) -> Iterator[tuple[str, _Scope]]:
        """The float32 tensors that `node` reads, those of the branches of an If too, and where they are made."""
        yield from ((name, home) for _, name, home in self.floats(node))
        for branch in _branches(node):
            for name in sorted(names_read(branch) - _made(branch)):
                home = self.home(name)
                if home is not None and home.types.get(name) == FLOAT:
                    yield name, home

    def walk(self) -> Iterator[_Scope]:
        """This scope and those of all Loops in it."""
        yield self
        for body in self.bodies.values():
            yield from body.walk()


class _Choice:
    """Which nodes and which parts of a Loop's state become float16."""

    def __init__(self, root: _Scope) -> None:
        self._root = root
        self._nodes: set[int] = set()
        self._carried: set[tuple[int, int]] = set()  # the Loop, and the place among its outputs
        self._seen: set[tuple[int, str]] = set()
        for scope in root.walk():
            for node in scope.nodes:
                if node.op_type in PRODUCTS and self._may_be_half(scope, node):
                    self._take(scope, node)

    def node(self, node: NodeProto) -> bool:
        """Whether `node` computes in float16."""
        return id(node) in self._nodes

    def carried(self, loop: NodeProto, place: int) -> bool:
        """Whether the output `place` of a Loop, and the state behind it, is float16."""
        return (id(loop), place) in self._carried

    def tensor(self, home: _Scope, name: str) -> bool:
        """Whether the float tensor `name` of `home` is made in float16."""
        node = home.maker.get(name)
        if node is None:
            place = home.inputs.index(name) - 2 if home.loop is not None and name in home.inputs else -1
            return place >= 0 and home.loop is not None and self.carried(home.loop, place)
        if node.op_type == "Loop":
            return self.carried(node, list(node.output).index(name))
        return self.node(node)

    def _take(self, scope: _Scope, node: NodeProto) -> None:
        self._nodes.add(id(node))
        for name, home in scope.reads(node):
            self._want(home, name)

    def _want(self, home: _Scope, name: str) -> None:
        """Something in float16 reads `name`: make it so, if that is safe."""
        if (id(home), name) in self._seen or home.types.get(name) != FLOAT:
            return
        self._seen.add((id(home), name))
        node = home.maker.get(name)
        if node is None:
            if home.loop is not None and home.around is not None and name in home.inputs[2:]:
                self._carry(home.around, home, home.loop, home.inputs.index(name) - 2)
        elif node.op_type == "Loop":
            self._carry(home, home.bodies[id(node)], node, list(node.output).index(name))
        elif self._may_be_half(home, node):
            self._take(home, node)

    def _carry(self, around: _Scope, body: _Scope, loop: NodeProto, place: int) -> None:
        if around is self._root and loop.output[place] in around.outputs:
            return
        self._carried.add((id(loop), place))
        if place < len(loop.input) - 2:
            self._want_from(around, loop.input[place + 2])
            self._want(body, body.inputs[place + 2])
        self._want_from(body, body.outputs[place + 1])

    def _want_from(self, scope: _Scope, name: str) -> None:
        home = scope.home(name)
        if home is not None:
            self._want(home, name)

    def _may_be_half(self, home: _Scope, node: NodeProto) -> bool:
        if home is self._root and not set(node.output).isdisjoint(home.outputs):
            return False  # an output of the whole graph keeps its type
        floats = [(id(home), name) for name in node.output if home.types.get(name) == FLOAT]
        if node.op_type == "If":  # all of its results change together
            return _only_moves(node) and self._seen.issuperset(floats)
        return bool(floats) and (node.op_type in SAFE or node.op_type in PRODUCTS)


class _Rewriter:
    """Makes it so, with Casts where float16 and float32 meet."""

    def __init__(self, root: _Scope, choice: _Choice) -> None:
        self._root, self._choice = root, choice
        self._casts: dict[tuple[int, int], list[NodeProto]] = {}  # (scope, the node they stand behind, or 0)
        self._converted: dict[tuple[int, str], str] = {}

    def rewrite(self) -> None:
        scopes = list(self._root.walk())
        for scope in scopes:
            for node in scope.nodes:
                self._rewrite_inputs(scope, node)
            self._rewrite_outputs(scope)
        for scope in reversed(scopes):  # bodies first: what is put back is a copy
            ordered = [*self._casts.get((id(scope), 0), ())]
            for node in scope.nodes:
                ordered += [node, *self._casts.get((id(scope), id(node)), ())]
            del scope.graph.value_info[:], scope.graph.node[:]
            scope.graph.node.extend(ordered)
        used = names_read(self._root.graph)
        for scope in scopes:
            kept = [tensor for tensor in scope.graph.initializer if tensor.name in used]
            del scope.graph.initializer[:]
            scope.graph.initializer.extend(kept)

    def _rewrite_inputs(self, scope: _Scope, node: NodeProto) -> None:
        for place, name, home in list(scope.floats(node)):
            wanted = self._choice.tensor(home, name) if node.op_type in INDIFFERENT else self._choice.node(node)
            if node.op_type == "Loop":
                wanted = self._choice.carried(node, place - 2)
            node.input[place] = self._as(home, name, wanted)
        for branch in _branches(node):
            self._rewrite_captured(scope, branch, set(), self._choice.node(node))
            if self._choice.node(node):
                del branch.value_info[:]
                for value in branch.output:
                    if value.type.tensor_type.elem_type == FLOAT:
                        value.type.tensor_type.elem_type = HALF

    def _rewrite_outputs(self, body: _Scope) -> None:
        """Types of what a Loop's body is given and gives back."""
        if body.loop is None:
            return
        for place in range(len(body.outputs) - 1):
            half = self._choice.carried(body.loop, place)
            if half and place + 2 < len(body.inputs):
                body.graph.input[place + 2].type.tensor_type.elem_type = HALF
            name = body.outputs[place + 1]
            home = body.home(name)
            if home is not None and home.types.get(name) == FLOAT:
                value = body.graph.output[place + 1]
                value.name = self._as(home, name, half)
                value.type.tensor_type.elem_type = HALF if half else FLOAT

    def _rewrite_captured(self, scope: _Scope, graph: GraphProto, inside: set[str], half: bool) -> None:
        """What a branch of an If reads of the graph around it, in the precision that the branch computes in."""
        inside = inside | _made(graph)
        for node in graph.node:
            for place, name in enumerate(node.input):
                home = scope.home(name) if name and name not in inside else None
                if home is not None and home.types.get(name) == FLOAT:
                    kept = node.op_type in INDIFFERENT
                    node.input[place] = name if kept else self._as(home, name, half)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    self._rewrite_captured(scope, attribute.g, inside, half)

    def _as(self, home: _Scope, name: str, half: bool) -> str:
        """The name of `name` in the precision asked for."""
        if self._choice.tensor(home, name) == half:
            return name
        key = (id(home), name)
        if key not in self._converted:
            self._converted[key] = new = f"{name}/{'half' if half else 'float'}"
            if half and name in home.constants:
                home.graph.initializer.append(_half_tensor(home.constants[name], new))
            else:
                cast = helper.make_node("Cast", [name], [new], name=new, to=HALF if half else FLOAT)
                behind = id(home.maker[name]) if name in home.maker else 0
                self._casts.setdefault((id(home), behind), []).append(cast)
        return self._converted[key]


def _half_tensor(tensor: TensorProto, name: str) -> TensorProto:
    """Finite numbers stay finite: the -1e9 of a mask becomes the lowest float16, so that no row of it is all -inf.

    And what is not 0 does not become 0, so that the smallest divisor allowed, as 1e-9, divides.
    """
    values = numpy_helper.to_array(tensor)
    clipped = np.where(np.isfinite(values), np.clip(values, -LARGEST_HALF, LARGEST_HALF), values)
    halves = clipped.astype(np.float16)
    kept = np.where((halves == 0) & (values != 0), np.copysign(SMALLEST_HALF, values), halves)
    return numpy_helper.from_array(np.asarray(kept, dtype=np.float16), name)


def _constant(node: NodeProto) -> TensorProto | None:
    """What a Constant is; None of integers and texts in attributes of their own, which float16 does not concern."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        return attribute.t
    if attribute.name == "value_float":
        return numpy_helper.from_array(np.array(attribute.f, np.float32))
    if attribute.name == "value_floats":
        return numpy_helper.from_array(np.array(attribute.floats, np.float32))
    return None


def _values(graph: GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output
    yield from graph.value_info


def _body(loop: NodeProto) -> GraphProto:
    return next(attribute.g for attribute in loop.attribute if attribute.name == "body")


def _branches(node: NodeProto) -> list[GraphProto]:
    if node.op_type == "Loop":
        return []
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def _made(graph: GraphProto) -> set[str]:
    """Names that are the graph's own."""
    names = {name for node in graph.node for name in node.output}
    return names | {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}


def _only_moves(node: NodeProto) -> bool:
    branches = _branches(node)
    return all(not branch.initializer and all(one.op_type in MOVES for one in branch.node) for branch in branches)
