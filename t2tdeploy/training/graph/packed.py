"""Training graphs that leave padding out find the tokens of a batch themselves.

How many tokens a batch has is not in its shapes, and torch.export tells sizes by shapes. So a model is captured with
the places of the tokens as inputs of their own (models/tokens.py); here nodes that find them take the place of these
inputs. Masks of tokens are drawn for every position, of which as many as there are tokens are used: then whoever runs
the graph draws them by the shapes of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from t2tdeploy.errors import DifferentiationError, UserError
from t2tdeploy.export.naming import rename_tensors
from t2tdeploy.features import PAD_ID, Modality
from t2tdeploy.models.model import Model, defining_class
from t2tdeploy.training.graph.environment import PORTABLE
from t2tdeploy.training.graph.manifest import Drawn, MaskSpec, names_of
from t2tdeploy.training.graph.step import has_tied_softmax
from t2tdeploy.training.graph.target import Target

INSTEAD = "leave packed_features out, so that padding is computed"


class PackedText(NamedTuple):
    """Names in a graph that leaves the padding of a text out.

    Args:
        places: of the tokens, where the model reads them.
        tokens: the axis of its tokens.
        positions: the expression of all its positions.
    """

    places: str
    tokens: str
    positions: str


def packed_features(model: Model, builder: str, target: Target) -> tuple[str, ...]:
    """The features whose padding a graph of the model leaves out.

    Only on CPUs: a GPU would have to wait, to know how many tokens there are. Gradients of the other builder are those
    of indexing, sums over rows that may repeat.

    Raises:
        UserError: what the model says of them cannot be; also where padding is computed all the same.
    """
    named = _declared(model)
    usable = builder == PORTABLE and target.device == "cpu" and has_tied_softmax(model)
    return named if usable else ()


def _declared(model: Model) -> tuple[str, ...]:
    kind = type(model)
    named: Any = vars(kind).get("packed_features", ())
    if named == () or not model.autoregressive:
        return ()
    texts = [name for name, spec in model.features.items() if spec.modality is Modality.SYMBOL]
    distinct = isinstance(named, tuple) and all(named.count(name) == 1 for name in named)
    if not distinct or model.target not in named or any(name not in texts for name in named):
        raise UserError(
            f"packed_features of {kind.__name__} is {named!r}: not a tuple of texts, each once, '{model.target}' among "
            "them",
            help=f"texts of this problem: {', '.join(texts)}",
        )
    if defining_class(kind, "body") is not defining_class(kind, "packed_body"):
        raise UserError(
            f"{kind.__name__} has packed_features, but its body and packed_body are of different classes",
            help=f"define both where you define one, or {INSTEAD}",
        )
    return tuple(named)


def find_tokens(model: ModelProto, features: Mapping[str, PackedText], drawn: Sequence[Drawn]) -> list[Drawn]:
    """Rewrites `model` in place.

    Args:
        features: those that are packed.
        drawn: inputs of `model`, random numbers whose shapes may have an axis of tokens.

    Returns:
        `drawn` with their new shapes.

    Raises:
        DifferentiationError: one has tokens in another place than its first axis.
    """
    graph = model.graph
    _write_constants(graph)
    nodes = [node for name, text in features.items() for node in _places(name, text.places)]
    counts = {text.tokens: f"{text.places}/count" for text in features.values()}
    of_all = {text.tokens: text.positions for text in features.values()}
    changed = {spec.name: _of_all_positions(spec, of_all) for spec in drawn}
    for spec in changed.values():
        if any(not names_of(size).isdisjoint(of_all) for size in spec.shape):
            named, what = (
                ", ".join(map(str, spec.shape)),
                "a dropout" if isinstance(spec, MaskSpec) else "random numbers",
            )
            raise DifferentiationError(f"packed_body has {what} of [{named}]: tokens may only be its first axis")
    cut = {spec.name: counts[str(spec.shape[0])] for spec in drawn if changed[spec.name] != spec}
    used = {name: f"{name}/tokens" for name in cut}
    rename_tensors(graph, used)
    nodes += [_node("Slice", [name, _ZERO, count, _ZERO], used[name]) for name, count in cut.items()]
    found = {text.places for text in features.values()}
    inputs = [value for value in graph.input if value.name not in found]
    for value in inputs:
        if value.name in changed:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, changed[value.name].shape))
    _replace(graph.input, inputs)
    _replace(graph.node, [*nodes, *graph.node])
    return [*changed.values()]


def _of_all_positions(spec: Drawn, of_all: Mapping[str, str]) -> Drawn:
    first = tuple(of_all.get(str(axis), axis) for axis in spec.shape[:1])
    return spec.model_copy(update={"shape": first + spec.shape[1:]})


def _replace(repeated: Any, values: Sequence[Any]) -> None:
    del repeated[:]
    repeated.extend(values)


_ZERO, _ONE, _MINUS_ONE, _PAD, _ONE_NUMBER = (f"places/{name}" for name in ("0", "1", "-1", "pad", "one"))


def _write_constants(graph: GraphProto) -> None:
    values = {_ZERO: [0], _ONE: [1], _MINUS_ONE: [-1], _PAD: PAD_ID, _ONE_NUMBER: 1}
    graph.initializer.extend(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in values.items())


def _places(feature: str, places: str) -> list[NodeProto]:
    """Nodes that make the places, and their count, of the tokens of ids [batch, length]: see models/tokens.py."""
    own = {name: f"{places}/{name}" for name in _NAMES}
    named = {"ids": feature, "places": places, **own}
    return [
        _node(operator, [named.get(name, name) for name in inputs], named[output], **attributes)
        for operator, inputs, output, attributes in _RECIPE
    ]


_RECIPE: list[tuple[str, list[str], str, dict[str, int]]] = [
    ("Equal", ["ids", _PAD], "is_pad", {}),
    ("Not", ["is_pad"], "is_real", {}),
    ("Cast", ["is_real"], "real", {"to": TensorProto.INT64}),
    ("Shape", ["ids"], "length_axis", {"start": 1}),
    ("Squeeze", ["length_axis"], "length", {}),
    ("Add", ["length", _ONE_NUMBER], "end", {}),
    ("Range", [_ONE_NUMBER, "end", _ONE_NUMBER], "number", {}),
    ("Mul", ["real", "number"], "real_number", {}),
    ("ReduceMax", ["real_number", _ONE], "last_real", {"keepdims": 1}),
    ("Cast", ["last_real"], "is_not_empty", {"to": TensorProto.BOOL}),
    ("Where", ["is_not_empty", "last_real", "length"], "last", {}),
    ("LessOrEqual", ["number", "last"], "is_token", {}),
    ("Reshape", ["is_token", _MINUS_ONE], "flat", {}),
    ("NonZero", ["flat"], "found", {}),
    ("Squeeze", ["found", _ZERO], "tokens", {}),
    ("Not", ["flat"], "is_left_out", {}),
    ("NonZero", ["is_left_out"], "found_left_out", {}),
    ("Squeeze", ["found_left_out", _ZERO], "left_out", {}),
    ("Slice", ["left_out", _ZERO, _ONE], "a_pad", {}),
    ("Concat", ["tokens", "a_pad"], "places", {"axis": 0}),
    ("Shape", ["places"], "count", {}),
]
_NAMES = [output for _, _, output, _ in _RECIPE if output != "places"]


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, list(inputs), [output], name=output, **attributes)
