"""Axes of a manifest: sizes, names and expressions of names."""

from __future__ import annotations

import pytest

from t2tdeploy.training.graph.manifest import Axis, Manifest, TensorSpec, axes_of, size_of

AXES = {"batch": 3, "inputs_length": 5, "targets_length": 7}


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        (4, 4),
        ("batch", 3),
        ("2*batch", 6),
        ("batch*targets_length", 21),
        ("targets_length + 1", 8),
        ("batch*(inputs_length - 1)", 12),
        ("inputs_length*targets_length//2", 17),
    ],
)
def test_an_axis_is_a_size_a_name_or_an_expression(axis: Axis, size: int) -> None:
    assert size_of(axis, AXES) == size


@pytest.mark.parametrize("axis", ["batch**2", "max(batch, 2)", "__import__('os')", "batch if batch else 1", "'batch'"])
def test_nothing_else_is_evaluated(axis: str) -> None:
    with pytest.raises(ValueError, match="not an axis"):
        size_of(axis, AXES)


def test_sizes_come_from_the_shapes_of_a_batch() -> None:
    features = (
        TensorSpec(name="inputs", dtype="int64", shape=("batch", "inputs_length")),
        TensorSpec(name="targets", dtype="int64", shape=("batch", "targets_length")),
    )
    assert axes_of(features, {"inputs": (3, 5), "targets": (3, 7)}) == AXES


def test_a_manifest_goes_through_json() -> None:
    manifest = Manifest.create(
        {
            "builder": "portable",
            "features": [{"name": "inputs", "dtype": "int64", "shape": ["batch", 4]}],
            "parameters": [],
            "fixed": [],
            "masks": [{"name": "dropout_0", "rate": 0.1, "shape": ["2*batch"]}],
            "changed": ["norm.running_mean"],
            "versions": {"torch": "2.13"},
        }
    )
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
