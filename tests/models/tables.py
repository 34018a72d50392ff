"""A small table with columns of every kind, its features, and batches of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2tdeploy.columns.declare import bucketized, crossed, hashed, numeric, vocabulary
from t2tdeploy.columns.fit import fit_columns
from t2tdeploy.columns.fitted import column_of, raw_columns
from t2tdeploy.columns.values import raw_array
from t2tdeploy.features import FeatureSpec

TRAINING = {
    "age": [20, 30, 40, 50],
    "city": ["Bonn", "Köln", "Ulm", "Bonn"],
    "wide": [[1, 2], [3, 4], [5, 6], [7, 8]],
}
COLUMNS = [
    numeric("age"),
    numeric("wide", shape=(2,)),
    bucketized("age", boundaries=(25, 45)),
    vocabulary("city"),
    hashed("city", buckets=50, embedding=3),
    crossed("city", bucketized("age", boundaries=(35,)), buckets=100, embedding=2),
]


def refuse(row: int, problem: str) -> Exception:
    return AssertionError(problem)


def features_of(target: FeatureSpec | None = None) -> dict[str, FeatureSpec]:
    raw = {raw.name: raw_array(raw, TRAINING[raw.name], refuse) for column in COLUMNS[:4] for raw in column.raw}
    return fit_columns(COLUMNS, raw) | ({"targets": target} if target else {})


def batch_of(features: Mapping[str, FeatureSpec], table: Mapping[str, list[Any]]) -> dict[str, Tensor]:
    raw = {name: raw_array(column, table[name], refuse) for name, column in raw_columns(dict(features)).items()}
    batch = {}
    for name, spec in features.items():
        if name != "targets":
            column = column_of(spec)
            assert column is not None
            batch[name] = torch.from_numpy(np.ascontiguousarray(column.apply(raw)))
    return batch
