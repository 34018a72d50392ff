"""Variants of an Estimator's bundle: made and held to the gate as those of a bundle with a data directory are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from sklearn.datasets import load_digits, load_iris
from torch import Tensor, nn
from torch.nn import functional as F

import t2tdeploy
from t2tdeploy.bundle import load_bundle
from t2tdeploy.columns.declare import Declaration, bucketized, numeric
from t2tdeploy.errors import CorruptFileError, InputError, QualityError, UnknownNameError, UserError
from t2tdeploy.export.class_agreement import ClassifierGate
from t2tdeploy.features import FeatureSpec
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.model import Model
from t2tdeploy.models.model_fn import EstimatorSpec, Mode, dense, input_layer
from t2tdeploy.training.estimator import Estimator
from tests.serving.toy_bundle import write_toy_bundle

IRIS = load_iris()
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
SPECIES = IRIS.target_names[IRIS.target]
TEST = np.arange(len(SPECIES)) % 3 == 0
TORCH = t2tdeploy.RunConfig(engine="torch")
Examples = tuple[dict[str, np.ndarray], np.ndarray]


def table(rows: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(NAMES, IRIS.data[rows].T, strict=True))


def training_rows() -> Examples:
    return table(~TEST), SPECIES[~TEST]


def held_out_rows() -> Examples:
    return table(TEST), SPECIES[TEST]


def iris_fn(features: dict[str, Tensor], labels: Tensor | None, mode: Mode, params: dict[str, Any]) -> EstimatorSpec:
    hidden = input_layer(features)
    for units in params["hidden_units"]:
        hidden = dense(hidden, units, activation=torch.relu)
    logits = dense(hidden, 3)
    return EstimatorSpec({"logits": logits}, None if labels is None else F.cross_entropy(logits, labels))


class Pixels(Model):
    """Two convolutions."""

    def __init__(self, hparams: BasicHParams, features: dict[str, FeatureSpec]) -> None:
        super().__init__(hparams, features, body_size=32)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()
        )

    def body(self, features: dict[str, Tensor]) -> Tensor:
        pixels: Tensor = self.layers(features["pixels"])
        return pixels.amax((2, 3))


def iris(path: Path, columns: list[Declaration] | None = None, **more: Any) -> Estimator:
    columns = columns or [*map(numeric, NAMES), bucketized("petal width", buckets=4)]
    hidden = {"params": {"hidden_units": [64, 64]}, "hparams": {"batch_size": 25, "learning_rate_constant": 0.01}}
    return Estimator(iris_fn, path, columns=columns, config=TORCH, **{**hidden, **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Estimator:
    return iris(tmp_path_factory.mktemp("iris") / "run").train(training_rows, steps=80)


@pytest.fixture
def bundle(trained: Estimator, tmp_path: Path) -> Path:
    trained.export_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def is_in_8_bits(path: Path) -> bool:
    return TensorProto.INT8 in {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def accuracy(path: Path, variant: str | None, examples: Examples) -> float:
    columns, labels = examples
    rows = [
        {name: values[row].item() if values.ndim == 1 else values[row] for name, values in columns.items()}
        for row in range(len(labels))
    ]
    answers = t2tdeploy.load(path, variant=variant, warm_up=False).classify(rows)
    return float(np.mean([one.labels[0].name == str(label) for one, label in zip(answers, labels, strict=True)]))


def test_the_variant_classifies_rows_as_well_as_float32(trained: Estimator, bundle: Path) -> None:
    measured = trained.optimize_bundle(bundle, calibrate=training_rows, compare_on=held_out_rows)["cpu-int8"]
    written = load_bundle(bundle)
    assert is_in_8_bits(written.path("cpu-int8"))
    assert set(written.manifest.variants) == {"cpu-float32", "cpu-int8"}
    assert written.manifest.default_variant == "cpu-float32"
    found, wanted = (accuracy(bundle, name, held_out_rows()) for name in ("cpu-int8", "cpu-float32"))
    assert (measured.accuracy, measured.reference_accuracy) == (found, wanted)
    assert wanted > 0.9
    assert found >= wanted - ClassifierGate().max_accuracy_loss
    assert (measured.bytes, measured.reference_bytes) == (written.size("cpu-int8"), written.size("cpu-float32"))
    assert measured.speed.examples_per_second > 0
    assert (measured.examples, measured.forced) == (TEST.sum(), False)
    recorded = written.variant("cpu-int8").measured
    assert recorded is not None
    assert recorded["calibrated_on"] == "the input function calibrate"
    assert recorded["compared_on"] == "the input function compare_on"
    assert recorded["accuracy"] == measured.accuracy


def test_the_default_is_chosen_and_made_anew(trained: Estimator, bundle: Path) -> None:
    version = load_bundle(bundle).version
    for default, expected in (("cpu-int8", "cpu-int8"), (None, "cpu-int8"), ("cpu-float32", "cpu-float32")):
        trained.optimize_bundle(
            bundle, calibrate=lambda: training_rows()[0], compare_on=held_out_rows, variants="cpu-int8", default=default
        )
        written = load_bundle(bundle)
        assert written.manifest.default_variant == expected
        assert written.version != version
    assert sorted(path.name for path in bundle.iterdir()) == [
        "cpu-int8.onnx", "manifest.json", "model.onnx", "parity.json"
    ]  # fmt: skip
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_pictures_are_classified_in_8_bits(tmp_path: Path) -> None:
    digits = load_digits()
    pixels = (digits.images[..., None] * 15).astype(np.uint8)
    held_out = np.arange(len(pixels)) % 4 == 0

    def some(rows: np.ndarray) -> Callable[[], Examples]:
        return lambda: ({"pixels": pixels[rows]}, digits.target[rows])

    hparams = {"batch_size": 64, "learning_rate_constant": 0.01}
    estimator = Estimator(Pixels, tmp_path / "run", hparams=hparams, config=TORCH).train(some(~held_out), steps=150)
    estimator.export_bundle(tmp_path / "bundle")
    measured = estimator.optimize_bundle(
        tmp_path / "bundle", calibrate=some(~held_out), compare_on=some(held_out), default="cpu-int8"
    )["cpu-int8"]
    assert is_in_8_bits(load_bundle(tmp_path / "bundle").path())
    assert measured.reference_accuracy is not None
    assert measured.reference_accuracy > 0.9
    assert accuracy(tmp_path / "bundle", None, some(held_out)()) == pytest.approx(
        measured.reference_accuracy, abs=ClassifierGate().max_accuracy_loss
    )


def test_numbers_are_compared_by_their_errors(tmp_path: Path) -> None:
    def line() -> tuple[np.ndarray, np.ndarray]:
        x = np.random.default_rng(0).normal(size=(80, 2))
        return x, x @ [3.0, -1.0] + 2.0

    estimator = Estimator("basic_fc", tmp_path / "run", hparams={"hidden_size": 32}, config=TORCH).train(line, steps=5)
    estimator.export_bundle(tmp_path / "bundle")
    measured = estimator.optimize_bundle(tmp_path / "bundle", calibrate=line, compare_on=line)["cpu-int8"]
    assert measured.accuracy is None
    assert measured.rmse == pytest.approx(estimator.evaluate(line)["rmse"], rel=0.02)


def test_a_variant_that_loses_too_much_is_refused_unless_forced(trained: Estimator, bundle: Path) -> None:
    """Rows between the species, labelled by the model itself, so that whatever 8 bits change is a loss."""
    between = np.random.default_rng(0).uniform(IRIS.data.min(0), IRIS.data.max(0), (2000, 4))
    columns = dict(zip(NAMES, between.T, strict=True))
    found = np.array([one["classes"][0] for one in trained.predict(lambda: columns)])
    before = (bundle / "manifest.json").read_bytes()

    def optimize(**more: Any) -> Any:
        gate = ClassifierGate(max_accuracy_loss=0.0)
        return trained.optimize_bundle(
            bundle, calibrate=training_rows, compare_on=lambda: (columns, found), gate=gate, **more
        )

    with pytest.raises(QualityError, match=r"cpu-int8: accuracy 0\.\d+ is .* below the 1\.0000 of float32"):
        optimize()
    assert (bundle / "manifest.json").read_bytes() == before
    assert "cpu-int8.onnx" not in {path.name for path in bundle.iterdir()}
    measured = optimize(force=True)["cpu-int8"]
    assert measured.forced
    assert measured.failures
    recorded = load_bundle(bundle).variant("cpu-int8").measured
    assert recorded is not None
    assert recorded["forced"]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"variants": ["cpu-int4"]}, UnknownNameError, "cpu-int4"),
        ({"variants": ["cuda-fp16"]}, InputError, "cuda-fp16 is not made of models that classify; there is cpu-int8"),
        ({"variants": []}, UserError, "nothing to make"),
        ({"default": "cuda-fp16"}, UnknownNameError, "default variant"),
        ({"compare_on": lambda: held_out_rows()[0]}, InputError, "gave no labels"),
        ({"compare_on": lambda: (held_out_rows()[0], ["rose"] * TEST.sum())}, InputError, "'rose' is no class"),
        ({"calibrate": lambda: {"petal width": np.zeros(4)}}, InputError, "no column 'petal length'|no column 'sepal"),
        ({"calibrate": training_rows()}, InputError, "cannot be called"),
    ],
)
def test_what_cannot_be_made_is_said(
    more: dict[str, Any], error: type[UserError], message: str, trained: Estimator, bundle: Path
) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(error, match=message):
        trained.optimize_bundle(bundle, **{"calibrate": training_rows, "compare_on": held_out_rows, **more})
    assert (bundle / "manifest.json").read_bytes() == before


def renamed() -> Examples:
    columns, labels = training_rows()
    return columns, np.char.upper(labels.astype(str))


def fewer() -> Examples:
    columns, labels = training_rows()
    return {name: values[10:] for name, values in columns.items()}, labels[10:]


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        ([numeric("petal width")], training_rows, "its features are .*sepal_length.* instead of "),
        (None, renamed, "its classes are setosa, versicolor, virginica instead of SETOSA, VERSICOLOR, VIRGINICA"),
        (None, fewer, "feature '.*' is declared otherwise, or was fitted on other examples"),
    ],
)
def test_a_bundle_of_another_run_is_refused(
    columns: Any, rows: Callable[[], Examples], message: str, bundle: Path, tmp_path: Path
) -> None:
    other = iris(tmp_path / "other", columns).train(rows, steps=1)
    with pytest.raises(InputError, match=message):
        other.optimize_bundle(bundle, calibrate=rows, compare_on=rows)


def test_what_is_not_there_is_said(trained: Estimator, bundle: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"calibrate": training_rows, "compare_on": held_out_rows}
    with pytest.raises(InputError, match="no trained model"):
        iris(tmp_path / "new").optimize_bundle(bundle, **given)
    with pytest.raises(InputError, match="is not a bundle"):
        trained.optimize_bundle(tmp_path / "nowhere", **given)
    with pytest.raises(InputError, match="does not say what it was trained on"):
        trained.optimize_bundle(write_toy_bundle(tmp_path / "toy").directory, **given)
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CorruptFileError, match="checksum"):
        trained.optimize_bundle(bundle, **given)
