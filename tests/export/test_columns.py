"""Columns in a graph: what they compute is what `columns.fitted` defines, whatever the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from onnx import ModelProto, TensorProto, helper

from t2tdeploy.columns.declare import Declaration, crossed, hashed, numeric, vocabulary
from t2tdeploy.columns.fit import fit_columns, raw_of
from t2tdeploy.columns.fitted import column_of, raw_columns
from t2tdeploy.columns.values import Array, raw_array
from t2tdeploy.errors import OperationalError
from t2tdeploy.export.columns import with_columns
from t2tdeploy.export.tensorrt_operators import refusals
from t2tdeploy.features import FeatureSpec, Modality
from tests.columns.drawn import declarations, refuse, tables, training_tables


def passing(features: Mapping[str, FeatureSpec]) -> ModelProto:
    """A model that gives back its features, each called NAME_out."""
    nodes, inputs, outputs = [], [], []
    for name, spec in features.items():
        kind = TensorProto.FLOAT if spec.modality is Modality.REAL else TensorProto.INT64
        inputs.append(helper.make_tensor_value_info(name, kind, ["batch", *spec.shape]))
        outputs.append(helper.make_tensor_value_info(f"{name}_out", kind, ["batch", *spec.shape]))
        nodes.append(helper.make_node("Identity", [name], [f"{name}_out"]))
    graph = helper.make_graph(nodes, "passing", inputs, outputs)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


def run(model: ModelProto, raw: Mapping[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return dict(
        zip([value.name for value in session.get_outputs()], session.run(None, {n: raw[n] for n in names}), strict=True)
    )


@settings(max_examples=100)
@given(declarations(), training_tables(), tables())
def test_the_graph_computes_what_the_columns_define(
    columns: list[Declaration], training: dict[str, Array], raw: dict[str, Array]
) -> None:
    features = fit_columns(columns, training)
    found = run(with_columns(passing(features), features), raw)
    for name, spec in features.items():
        column = column_of(spec)
        assert column is not None
        wanted, got = column.apply(raw), found[f"{name}_out"]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        if spec.modality is Modality.REAL:
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(got, wanted)


def test_a_raw_column_may_be_called_as_anything_inside_the_model() -> None:
    columns: list[Declaration] = [
        numeric("size_number"),
        numeric("constant"),
        vocabulary("size_number_out2"),
        hashed("x y/z"),
    ]
    table: dict[str, Any] = {"size_number": [1, 2], "constant": [3, None], "size_number_out2": "ab", "x y/z": "ab"}
    features = fit_columns(columns, as_raw(columns, table))
    model = passing(features)
    inner = "constant"  # an initializer that every output passes
    model.graph.initializer.append(helper.make_tensor(inner, TensorProto.FLOAT, [], [0.0]))
    model.graph.node[0].output[0] = "x y/z"
    model.graph.node.append(helper.make_node("Add", ["x y/z", inner], ["size_number_number_out"]))
    joined = with_columns(model, features)
    assert [value.name for value in joined.graph.input] == list(table)
    found = run(joined, as_raw(columns, table))
    np.testing.assert_allclose(found["size_number_number_out"], [-1, 1])


def as_raw(columns: list[Declaration], table: Mapping[str, Any]) -> dict[str, Array]:
    return {name: raw_array(raw, list(table[name]), refuse) for name, raw in raw_of(columns).items()}


def test_features_without_a_column_stay_inputs() -> None:
    columns: list[Declaration] = [crossed(vocabulary("a"), hashed("b", buckets=5), buckets=3)]
    raw = as_raw(columns, {"a": "xyz", "b": ["1", "2", ""]})
    features = fit_columns(columns, raw)
    plain = {"length": FeatureSpec(name="length", modality=Modality.REAL)}
    model = passing({**plain, **features})
    assert with_columns(model, plain) is model
    joined = with_columns(model, {**plain, **features, "targets": FeatureSpec("targets", Modality.CLASS_LABEL)})
    assert [value.name for value in joined.graph.input] == ["a", "b", "length"]
    assert list(raw_columns(features)) == ["a", "b"]


def test_a_column_called_as_an_output_is_refused() -> None:
    features = fit_columns([numeric("a")], {"a": np.array([1.0, 2.0], np.float32)})
    model = passing(features)
    model.graph.output[0].name = model.graph.node[0].output[0] = "a"
    with pytest.raises(OperationalError, match="column 'a' has the name of a tensor"):
        with_columns(model, features)


def test_an_empty_batch_and_one_of_one_row() -> None:
    columns: list[Declaration] = [numeric("n"), vocabulary("t", other_buckets=2), hashed("t")]
    features = fit_columns(columns, as_raw(columns, {"n": [1, 2], "t": "ab"}))
    model = with_columns(passing(features), features)
    for rows in (0, 1):
        found = run(model, as_raw(columns, {"n": [5][:rows], "t": ["never seen"][:rows]}))
        assert {name: value.shape for name, value in found.items()} == dict.fromkeys(found, (rows,))


def test_tensorrt_refuses_columns_of_strings_and_names_their_nodes() -> None:
    columns: list[Declaration] = [vocabulary("city")]
    features = fit_columns(columns, as_raw(columns, {"city": "abab"}))
    found = refusals(with_columns(passing(features), features))
    assert {refusal.operator for refusal in found} == {"ai.onnx.ml::LabelEncoder"}
    numbers: list[Declaration] = [numeric("width")]
    features = fit_columns(numbers, as_raw(numbers, {"width": [1.0, 2.0, 3.5]}))
    assert not refusals(with_columns(passing(features), features))
