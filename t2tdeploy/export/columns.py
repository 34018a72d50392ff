"""Fitted columns as ONNX nodes: raw values in, a model's features out.

The nodes compute what `columns.fitted` defines. They are standard operators, but for one: a hash of strings is
onnxruntime's own MurmurHash3 (domain com.microsoft), which needs no library beside it and exists wherever
onnxruntime does. Vocabularies are LabelEncoders of the domain ai.onnx.ml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.utils
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from t2tdeploy.columns.fitted import (
    FARTHEST,
    BucketizedColumn,
    CrossedColumn,
    FittedColumn,
    HashedColumn,
    NumericColumn,
    VocabularyColumn,
    column_of,
)
from t2tdeploy.columns.hashing import CROSS_FACTOR, CROSS_PRIME
from t2tdeploy.columns.values import RawColumn
from t2tdeploy.errors import OperationalError
from t2tdeploy.export.naming import rename_tensors
from t2tdeploy.export.nodes import Nodes
from t2tdeploy.features import FeatureSpec, Modality

DOMAINS = {"ai.onnx.ml": 2, "com.microsoft": 1}

_FEATURE = "columns/feature/"


def with_columns(model: ModelProto, features: Mapping[str, FeatureSpec]) -> ModelProto:
    """A model that takes raw columns in the place of the features that are made of them.

    Args:
        model: its inputs are named after the features.
        features: those without a column stay inputs.

    Returns:
        the model with inputs named after the raw columns, float32 [batch, *shape] or string [batch], in the order of
        the features; the same model if no feature has a column.

    Raises:
        OperationalError: a raw column has the name of another input or of an output.
    """
    columns = {name: column for name, spec in features.items() if (column := column_of(spec)) is not None}
    given = {value.name: value for value in model.graph.input}
    columns = {name: column for name, column in columns.items() if name in given}
    if not columns:
        return model
    graph = GraphProto()
    graph.CopyFrom(model.graph)
    rename_tensors(graph, {name: _FEATURE + name for name in columns})
    raw = {raw.name: raw for column in columns.values() for raw in column.raw}
    kept = [value for name, value in given.items() if name not in columns]
    for taken in (*kept, *model.graph.output):
        if taken.name in raw:
            raise OperationalError(
                f"column '{taken.name}' has the name of a tensor of the model", help="give the column another name"
            )
    _rename_inner(graph, raw)
    nodes = column_nodes(columns)
    del graph.input[:]
    graph.input.extend([*(input_of(column) for column in raw.values()), *kept])
    own = [*nodes.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(own)
    graph.initializer.extend(nodes.constants)
    known = {entry.domain: entry.version for entry in model.opset_import}
    found = helper.make_model(
        graph,
        producer_name=model.producer_name,
        ir_version=model.ir_version,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in {**DOMAINS, **known}.items()],
        functions=model.functions,
    )
    onnx.checker.check_model(found)
    return found


def without_columns(model: ModelProto, features: Mapping[str, FeatureSpec]) -> ModelProto:
    """What `with_columns` was given: a model that takes features in the place of the raw columns they are made of.

    Args:
        features: of the model's inputs.
    """
    made = [name for name, spec in features.items() if column_of(spec) is not None]
    if not made:
        return model
    raw = {raw.name for name in made if (column := column_of(features[name])) for raw in column.raw}
    copy = ModelProto()
    copy.CopyFrom(model)
    for name in made:
        copy.graph.value_info.append(_feature_value(name, features[name]))
    kept = [value.name for value in model.graph.input if value.name not in raw]
    inner = onnx.utils.Extractor(copy).extract_model(
        [*(_FEATURE + name for name in made), *kept], [value.name for value in model.graph.output]
    )
    rename_tensors(inner.graph, {_FEATURE + name: name for name in made})
    for value in inner.graph.input:
        value.name = value.name.removeprefix(_FEATURE)
    return inner


def _feature_value(name: str, spec: FeatureSpec) -> ValueInfoProto:
    kind = TensorProto.FLOAT if spec.modality is Modality.REAL else TensorProto.INT64
    return helper.make_tensor_value_info(_FEATURE + name, kind, ["batch", *spec.shape])


def input_of(column: RawColumn) -> ValueInfoProto:
    """A raw column as the graph's input."""
    kind = TensorProto.STRING if column.kind == "text" else TensorProto.FLOAT
    return helper.make_tensor_value_info(column.name, kind, ["batch", *column.shape])


def _rename_inner(graph: GraphProto, raw: Mapping[str, RawColumn]) -> None:
    """Gives other names to tensors inside the model that have those of raw columns."""
    inner = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    names = {name: f"columns/inner/{name}" for name in inner & set(raw)}
    rename_tensors(graph, names)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)


def column_nodes(columns: Mapping[str, FittedColumn], prefix: str = _FEATURE) -> Nodes:
    """Nodes that make the features, named `prefix` + name, of inputs named after the raw columns."""
    nodes = Nodes("columns")
    for name, column in columns.items():
        nodes.op("Identity", _feature(nodes, column), output=prefix + name)
    return nodes


def _feature(nodes: Nodes, column: FittedColumn) -> str:
    writers: dict[type[FittedColumn], Any] = {
        NumericColumn: _numeric,
        BucketizedColumn: _bucketized,
        VocabularyColumn: _vocabulary,
        HashedColumn: _hashed,
        CrossedColumn: _crossed,
    }
    written: str = writers[type(column)](nodes, column)
    return written


def _numeric(nodes: Nodes, column: NumericColumn) -> str:
    value, (mean, deviation) = column.reads, column.constants
    scaled = value
    if column.scale == "log":
        size = nodes.op("Log", nodes.op("Add", nodes.op("Abs", value), np.array(1, np.float32)))
        scaled = nodes.op("Mul", nodes.op("Sign", value), size)
    normal = nodes.op("Div", nodes.op("Sub", scaled, mean), deviation)
    near = nodes.op("Clip", normal, np.array(-FARTHEST, np.float32), np.array(FARTHEST, np.float32))
    return nodes.op("Where", _missing(nodes, value), np.array(0, np.float32), near)


def _bucketized(nodes: Nodes, column: BucketizedColumn) -> str:
    reached = nodes.op(
        "GreaterOrEqual", nodes.op("Unsqueeze", column.reads, [1]), np.array(column.boundaries, np.float32)
    )
    passed = nodes.op("ReduceSum", nodes.op("Cast", reached, to=TensorProto.INT64), [1], keepdims=0)
    return nodes.op("Where", _missing(nodes, column.reads), 0, nodes.op("Add", passed, 1))


def _missing(nodes: Nodes, number: str) -> str:
    return nodes.op("Or", nodes.op("IsNaN", number), nodes.op("IsInf", number))


def _vocabulary(nodes: Nodes, column: VocabularyColumn) -> str:
    others = 1 + len(column.values)
    unknown = others if column.other_buckets == 1 else -1
    found = _encode(nodes, column.reads, column.ids, unknown)
    if column.other_buckets == 1:
        return found
    bucket = _hash(nodes, column.reads, column.other_buckets)
    return nodes.op("Where", nodes.op("Less", found, 0), nodes.op("Add", bucket, others), found)


def _hashed(nodes: Nodes, column: HashedColumn) -> str:
    missing = nodes.op("Equal", _encode(nodes, column.reads, {"": 0}, 1), 0)
    return nodes.op("Where", missing, 0, nodes.op("Add", _hash(nodes, column.reads, column.buckets), 1))


def _crossed(nodes: Nodes, column: CrossedColumn) -> str:
    parts = [_feature(nodes, key) for key in column.keys]
    if column.is_hashed:
        return nodes.op("Mod", _mixed(nodes, parts), column.buckets)
    found = parts[0]
    for key, part in zip(column.keys[1:], parts[1:], strict=True):
        found = nodes.op("Add", nodes.op("Mul", found, key.size), part)
    return found


def _mixed(nodes: Nodes, parts: Sequence[str]) -> str:
    state = nodes.op("Add", parts[0], 1)
    for part in parts[1:]:
        product = nodes.op("Mul", state, CROSS_FACTOR)
        state = nodes.op("Mod", nodes.op("Add", nodes.op("Add", product, part), 1), CROSS_PRIME)
    return state


def _encode(nodes: Nodes, value: str, ids: Mapping[str, int], unknown: int) -> str:
    return nodes.op(
        "LabelEncoder",
        value,
        domain="ai.onnx.ml",
        keys_strings=list(ids),
        values_int64s=list(ids.values()),
        default_int64=unknown,
    )


def _hash(nodes: Nodes, value: str, buckets: int) -> str:
    hashed = nodes.op("MurmurHash3", value, domain="com.microsoft", positive=1, seed=0)
    return nodes.op("Mod", nodes.op("Cast", hashed, to=TensorProto.INT64), buckets)
