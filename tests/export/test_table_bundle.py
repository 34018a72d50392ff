"""A model of a table in a bundle: asked with raw rows, it answers as torch does about the features of their columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2tdeploy.api import load
from t2tdeploy.classifier import Classifier
from t2tdeploy.columns.declare import hashed, vocabulary
from t2tdeploy.columns.fit import fit_columns
from t2tdeploy.columns.values import raw_array
from t2tdeploy.errors import RequestError
from t2tdeploy.export.classifier import export_classifier
from t2tdeploy.models.model import Model
from t2tdeploy.models.tabular import DnnRegressor, WideAndDeep
from t2tdeploy.models.tabular_hparams import DnnHParams
from tests.models.labelled import LABEL, PRICE
from tests.models.tables import TRAINING, batch_of, features_of, refuse

ROWS: list[dict[str, Any]] = [
    {"age": 33, "city": "Bonn", "wide": [1, 2]},
    {"age": "44.5", "city": " Köln ", "wide": [1.5, -2]},
    {"age": None, "city": "never seen", "wide": None},
    {"age": math.inf, "city": 7, "wide": [math.nan, 1e38]},
    {"age": None},
]
NONE = {"age": None, "city": None, "wide": None}


def exported(model: Model, folder: Path, rows: Mapping[str, list[Any]] = TRAINING) -> Classifier:
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    examples = {name: tensor.numpy() for name, tensor in batch_of(model.features, rows).items()}
    export_classifier(
        model, folder / "bundle", name="table", tokenizers={}, max_length=1, examples=examples, provenance={}
    )
    found = load(folder / "bundle")
    assert isinstance(found, Classifier)
    return found


def by_torch(model: Model, rows: list[dict[str, Any]]) -> np.ndarray:
    complete = [{**NONE, **row} for row in rows]
    batch = batch_of(model.features, {name: [row[name] for row in complete] for name in NONE})
    with torch.no_grad():
        found: np.ndarray = model.eval()(batch).numpy()
    return found


def test_raw_rows_are_classified_as_their_features_are(tmp_path: Path) -> None:
    model = WideAndDeep(DnnHParams.create({"hidden_units": (6,)}), features_of(LABEL))
    bundle = exported(model, tmp_path)
    assert {name: feature.kind for name, feature in bundle.features.items()} == {
        "age": "number", "wide": "tensor", "city": "category"
    }  # fmt: skip
    wanted = by_torch(model, ROWS)
    for row, answer in zip(wanted, bundle.classify(ROWS, top_k=3), strict=True):
        found = {label.class_id: label.logit for label in answer.labels}
        np.testing.assert_allclose([found[place] for place in range(3)], row, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("canonical", [True, False])  # False: of columns that were fitted when this was not so
def test_categories_are_the_same_written_and_sent(canonical: bool, tmp_path: Path) -> None:
    columns = [vocabulary("city"), hashed("city", buckets=50)]
    raw = raw_array(columns[0].raw[0], ["True", "False", "2.0", "1.10"], refuse)
    if not canonical:
        raw[:] = ["True", "False", "2.0", "1.10"]
    features = fit_columns(columns, {"city": raw})
    for name, spec in features.items():
        assert spec.column is not None
        features[name] = replace(spec, column={**spec.column, "canonical": canonical})
    model = DnnRegressor(DnnHParams.create({"hidden_units": (6,)}), {**features, "targets": PRICE})
    bundle = exported(model, tmp_path, {"city": ["True", "2.0"]})
    assert bundle.features["city"].canonical is canonical
    sent, written = [True, False, 2, 1.1], ["True", "False", "2.0", "1.10"]
    found = [
        [answer.values[0] for answer in bundle.classify([{"city": one} for one in row])] for row in (sent, written)
    ]
    alike = [one == pytest.approx(other) for one, other in zip(*found, strict=True)]
    assert alike == [canonical, canonical, canonical, False]
    assert len({round(value, 4) for value in found[1]}) == 4  # the training rows' own


def test_a_quantity_is_answered_in_its_own_unit(tmp_path: Path) -> None:
    model = DnnRegressor(DnnHParams.create({"hidden_units": (6,)}), features_of(PRICE))
    bundle = exported(model, tmp_path)
    found = [answer.values[0] for answer in bundle.classify(ROWS)]
    np.testing.assert_allclose(found, by_torch(model, ROWS), rtol=1e-4)
    for row, message in (
        ({"agee": 1}, "examples[0].agee: no such feature"),
        ({"age": "old"}, "examples[0].age: 'old' is not a number"),
        ({"city": ["Bonn"]}, "examples[0].city: ['Bonn'] is a list, not a text"),
        ({"wide": [1]}, "examples[0].wide: shape [1], but it is [2]"),
    ):
        with pytest.raises(RequestError) as caught:
            bundle.classify([row])
        assert message in str(caught.value)
