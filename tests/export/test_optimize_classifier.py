"""Models that classify or regress in 8 bits: near to float32, alone as in a batch, and refused when they are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from t2tdeploy.bundle import Bundle
from t2tdeploy.classifier import Classifier
from t2tdeploy.columns.declare import numeric, vocabulary
from t2tdeploy.columns.fit import fit_columns
from t2tdeploy.columns.fitted import column_of
from t2tdeploy.errors import InputError, QualityError
from t2tdeploy.export.class_agreement import ClassifierGate, ClassifierMeasured
from t2tdeploy.export.columns import with_columns, without_columns
from t2tdeploy.export.optimize import write_variants
from t2tdeploy.export.optimize_classifier import Labelled, _measure, make_classifier_variants
from t2tdeploy.export.single_pass import Batch
from t2tdeploy.features import FeatureSpec
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.basic_fc import BasicFc
from t2tdeploy.models.model import Model
from t2tdeploy.progress import SilentReporter
from tests.export.test_classifier import ends_with_eos, example, export, outputs
from tests.models.labelled import CASES, NUMBER, random_batch

ROWS = 40
LENIENT = ClassifierGate(max_accuracy_loss=1.0, max_error_growth=10.0)


def exported(model: Model, directory: Path, batch: Batch) -> Bundle:
    features = {name: asdict(spec) for name, spec in model.features.items()}
    return export(model, directory, batch, provenance={"features": features}).bundle


def examples_of(features: Mapping[str, FeatureSpec], seed: int) -> Batch:
    return ends_with_eos(features, random_batch(features, ROWS, seed=seed))


def with_raw_columns(directory: Path) -> tuple[dict[str, Any], dict[str, FeatureSpec], Batch, Bundle]:
    """Raw columns of a number and a word, the features fitted on them, a batch, and a bundle that regresses."""
    drawn = np.random.default_rng(0)
    raw = {
        "width": drawn.normal(size=ROWS).astype(np.float32),
        "colour": drawn.choice(np.array(["red", "blue", ""], object), ROWS),
    }
    features = {**fit_columns([numeric("width"), vocabulary("colour")], raw), "targets": NUMBER}
    batch = {name: column.apply(raw) for name, spec in features.items() if (column := column_of(spec)) is not None}
    batch["targets"] = drawn.normal(size=ROWS).astype(np.float32)
    bundle = exported(BasicFc(BasicHParams.create({"hidden_size": 16}), features), directory, batch)
    return raw, features, batch, bundle


@pytest.mark.parametrize("name", ["transformer_encoder", "bag_of_embeddings", "basic_fc", "convolution"])
def test_8_bits_are_near_to_float32_and_need_no_batch(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    calibration, dev = (examples_of(case.features, seed) for seed in (1, 2))
    bundle = exported(case.make(), tmp_path / "float", dev)
    made = make_classifier_variants(
        bundle,
        ["cpu-int8"],
        calibration=Labelled([calibration], "some"),
        dev=Labelled([dev], "others"),
        gate=LENIENT,
    )
    written = write_variants(bundle, tmp_path / "both", made, default="cpu-int8")
    types = {tensor.data_type for tensor in onnx.load(written.path("cpu-int8")).graph.initializer}
    assert TensorProto.INT8 in types
    whole, small = (Classifier(written, variant=variant, threads=1) for variant in ("cpu-float32", "cpu-int8"))
    examples = [example(case.features, dev, row) for row in range(ROWS)]
    top_k = max(1, len(whole.classes))
    wanted, found = (
        np.array([outputs(one) for one in each.classify(examples, top_k=top_k)]) for each in (whole, small)
    )
    assert np.abs(found - wanted).max() < 0.1 * max(1.0, np.abs(wanted).max())
    assert (found != wanted).any()
    alone = np.array([outputs(small.classify([one], top_k=top_k)[0]) for one in examples])
    assert np.abs(alone - found).max() < 1e-5
    measured = written.variant("cpu-int8").measured
    assert measured is not None
    assert (measured["compared_on"], measured["calibrated_on"], measured["examples"]) == ("others", "some", ROWS)
    assert (measured["accuracy"] is None) == (not whole.classes)
    assert not measured["failures"]


@pytest.fixture(scope="module")
def measured_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Labelled]:
    case = CASES["convolution"]
    batch = examples_of(case.features, 1)
    return exported(case.make(), tmp_path_factory.mktemp("bundles") / "images", batch), Labelled([batch], "some")


def test_a_variant_that_loses_too_much_is_refused(measured_bundle: tuple[Bundle, Labelled], tmp_path: Path) -> None:
    bundle, data = measured_bundle
    options: dict[str, Any] = {"calibration": data, "dev": data}
    made = make_classifier_variants(bundle, ["cpu-int8"], gate=ClassifierGate(max_accuracy_loss=-2.0), **options)
    with pytest.raises(QualityError, match=r"cpu-int8: accuracy 0\.\d+ is .* below the 0\.\d+ of float32"):
        write_variants(bundle, tmp_path / "refused", made)
    assert list(tmp_path.iterdir()) == []
    written = write_variants(bundle, tmp_path / "forced", made, force=True)
    measured = written.variant("cpu-int8").measured
    assert measured is not None
    assert measured["forced"]


@pytest.mark.parametrize(
    ("examples", "lost", "bound", "passes", "told"),
    [
        (200, 1, 0.005, True, False),  # 181 right of 200 and 180 differ, as floats, by more than 0.005
        (400, 2, 0.005, True, False),
        (400, 2, 0.0049, False, False),
        (80, 1, 0.005, True, True),  # one may always be lost, and that is said
        (80, 2, 0.005, False, False),
        (80, 1, 0.0, False, False),  # unless none is to be lost
        (80, 0, 0.0, True, False),
    ],
)
def test_as_much_as_is_allowed_may_be_lost(
    measured_bundle: tuple[Bundle, Labelled],
    monkeypatch: pytest.MonkeyPatch,
    examples: int,
    lost: int,
    bound: float,
    passes: bool,
    told: bool,
) -> None:
    bundle, _ = measured_bundle
    labels = np.zeros(examples, np.int64)
    logits = np.zeros((2, examples, len(bundle.manifest.classes)))
    logits[0, : 19 + lost, 1] = logits[1, :19, 1] = 1
    outputs = iter(logits)
    monkeypatch.setattr("t2tdeploy.export.optimize_classifier._outputs", lambda *_: next(outputs))
    dev, gate, reporter = Labelled([{"targets": labels}], "some"), ClassifierGate(max_accuracy_loss=bound), Told()
    found = _measure(bundle, [None, None], dev, {}, gate, reporter, timed=False)  # type: ignore[list-item]
    assert (found["failures"] == []) == passes
    for words in (*found["failures"], *reporter.texts):
        assert f"that is {lost} of {examples} examples" in words
    assert bool(reporter.texts) == told


class Told(SilentReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def test_what_cannot_be_made_is_said(measured_bundle: tuple[Bundle, Labelled]) -> None:
    bundle, data = measured_bundle
    with pytest.raises(InputError, match="cuda-fp16 is not made of models that classify; there is cpu-int8, tensorrt"):
        make_classifier_variants(bundle, ["cuda-fp16"], calibration=data, dev=data, gate=LENIENT)
    silent = Bundle(bundle.directory, bundle.manifest.model_copy(update={"provenance": {}}))
    with pytest.raises(InputError, match="does not say what it was trained on"):
        make_classifier_variants(silent, ["cpu-int8"], calibration=data, dev=data, gate=LENIENT)


def test_raw_columns_stay_in_front(tmp_path: Path) -> None:
    raw, features, batch, bundle = with_raw_columns(tmp_path / "float")
    graph = onnx.load(bundle.path())
    inputs = {name: spec for name, spec in features.items() if name != "targets"}
    inner = without_columns(graph, inputs)
    assert [value.name for value in inner.graph.input] == [*inputs]
    assert [value.name for value in with_columns(inner, inputs).graph.input] == ["width", "colour"]
    data = Labelled([batch], "some")
    made = make_classifier_variants(bundle, ["cpu-int8"], calibration=data, dev=data, gate=ClassifierGate())
    assert isinstance(measured := made["cpu-int8"].measured, ClassifierMeasured)
    assert measured.rmse == pytest.approx(measured.reference_rmse, rel=0.02)
    written = write_variants(bundle, tmp_path / "both", made)
    rows = [{name: values[row] for name, values in raw.items()} for row in range(ROWS)]
    whole, small = (
        np.array([one.values for one in Classifier(written, variant=variant, threads=1).classify(rows)])
        for variant in ("cpu-float32", "cpu-int8")
    )
    assert np.abs(whole - small).max() < 0.1


def test_layers_of_few_weights_stay_as_they_are(tmp_path: Path) -> None:
    case = CASES["dnn_regressor"]
    bundle = exported(case.make(), tmp_path / "float", examples_of(case.features, 2))
    made = make_classifier_variants(
        bundle,
        ["cpu-int8"],
        calibration=Labelled([examples_of(case.features, 1)], "some"),
        dev=Labelled([examples_of(case.features, 2)], "others"),
        gate=LENIENT,
    )
    written = write_variants(bundle, tmp_path / "both", made, default="cpu-int8")
    operators = {node.op_type for node in onnx.load(written.path("cpu-int8")).graph.node}
    assert "Gemm" in operators
    assert "QuantizeLinear" not in operators
