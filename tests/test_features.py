"""Feature declarations travel through run.json and manifests unchanged."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from t2tdeploy.features import FeatureSpec, Modality

SPECS = (
    FeatureSpec("inputs", Modality.SYMBOL, "shared", 8000),
    FeatureSpec("targets", Modality.CLASS_LABEL, classes=("negative", "positive")),
    FeatureSpec("image", Modality.IMAGE, shape=(28, 28, 1)),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_declaration_is_the_same_after_a_way_through_json(spec: FeatureSpec) -> None:
    assert FeatureSpec.from_json(json.loads(json.dumps(asdict(spec)))) == spec


def test_what_an_older_record_does_not_have_has_its_default() -> None:
    record = {"name": "inputs", "modality": "symbol", "vocabulary": "shared", "vocab_size": 8000}
    assert FeatureSpec.from_json(record) == SPECS[0]
