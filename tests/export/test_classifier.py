"""Models that classify or regress, exported: the bundle answers as torch does, alone or in a batch of any size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from t2tdeploy.classifier import Classification, Classifier
from t2tdeploy.columns.declare import hashed, numeric, vocabulary
from t2tdeploy.columns.fit import fit_columns
from t2tdeploy.columns.fitted import column_of
from t2tdeploy.errors import InputError, OperationalError, ParityError
from t2tdeploy.export.classifier import export_classifier
from t2tdeploy.export.single_pass import Batch, export_single_pass
from t2tdeploy.export.verify_classifier import forward, verify_classifier
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.basic_fc import BasicFc
from t2tdeploy.models.model import Model
from t2tdeploy.progress import SilentReporter
from t2tdeploy.runtime import Session
from t2tdeploy.tokenizer import ByteTokenizer
from tests.models.labelled import CASES, LABEL, NUMBER, TEXT, Case, SmallConvolution, random_batch

ROWS = 9
SMALL = BasicHParams.create({"hidden_size": 8})


class LooksAtPadding(Model):
    """The mean over all positions, padding included."""

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return (features["inputs"] + 0.3).mean(1)


class Untranslatable(Model):
    def body(self, features: dict[str, Tensor]) -> Tensor:
        return torch.linalg.svd(features["inputs"])[1][:, :1].expand(-1, 8)


def export(model: Model, directory: Path, examples: Batch, **options: Any) -> Classifier:
    settings: dict[str, Any] = {"name": "toy", "max_length": 30, "provenance": {}, **options}
    tokenizers = {name: ByteTokenizer() for name, spec in model.features.items() if spec.modality is Modality.SYMBOL}
    bundle = export_classifier(model, directory, tokenizers=tokenizers, examples=examples, **settings)
    return Classifier(bundle, threads=1)


def example(features: Mapping[str, FeatureSpec], batch: Batch, row: int) -> dict[str, Any]:
    """A row of a batch as a client sends it; ids as such."""
    return {name: batch[name][row] for name in features if name != Model.target}


def outputs(answer: Classification) -> list[float]:
    logits = {one.class_id: one.logit for one in answer.labels}
    return [logits[place] for place in sorted(logits)] or list(answer.values)


def ends_with_eos(features: Mapping[str, FeatureSpec], batch: Batch) -> Batch:
    """Texts with EOS behind their last token, as real ones have it."""
    found = dict(batch)
    for name, spec in features.items():
        if spec.modality is Modality.SYMBOL:
            rows = [np.append(row[row > 0], 1) for row in np.where(batch[name] == 1, 2, batch[name])]
            found[name] = np.stack([np.pad(row, (0, batch[name].shape[1] + 1 - len(row))) for row in rows])
    return found


@pytest.mark.parametrize("name", ["transformer_encoder", "bag_of_embeddings", "nbsvm", "basic_fc", "resnet"])
def test_the_bundle_answers_as_torch_does_alone_and_in_any_batch(name: str, tmp_path: Path) -> None:
    case: Case = CASES[name]
    model = case.make()
    batch = ends_with_eos(case.features, random_batch(case.features, ROWS))
    classifier = export(model, tmp_path / "bundle", batch)
    examples = [example(case.features, batch, row) for row in range(ROWS)]
    top_k = max(1, len(classifier.classes))
    wanted = forward(model, batch).reshape(ROWS, -1)
    for rows in (range(ROWS), range(2, 4), range(5, 6)):
        answers = classifier.classify([examples[row] for row in rows], top_k=top_k)
        for row, answer in zip(rows, answers, strict=True):
            assert outputs(answer) == pytest.approx(wanted[row].tolist(), abs=1e-4)
    report = json.loads((tmp_path / "bundle" / "parity.json").read_text())
    assert report["passed"]
    assert (report["examples"], report["identical"], report["calibration"]) == (ROWS, ROWS, None)
    assert report["largest_batch_difference"] < report["tolerance"]
    assert {entry.domain for entry in onnx.load(classifier.bundle.path()).opset_import} == {""}
    if name == "basic_fc":
        inputs = {"width (cm)", "values_input", "type", "tags", "kind", "text_ids"}
        assert {*classifier.session.inputs} == inputs
    if classifier.classes:
        chances = [one.probability for one in answers[0].labels]
        scaled = np.array([one.logit for one in answers[0].labels])
        of_all = 1 / (1 + np.exp(-scaled)) if classifier.bundle.manifest.multi_label else softmax(scaled)
        assert chances == pytest.approx(of_all.tolist(), abs=1e-5)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum()


def test_batch_normalization_becomes_part_of_weights() -> None:
    model = CASES["convolution"].make()
    assert isinstance(model, SmallConvolution)
    batch = random_batch(model.features, ROWS)
    model.train()
    for _ in range(3):  # so that there is something to fold
        model({"inputs": torch.from_numpy(batch["inputs"])})
    graph = export_single_pass(model, batch)
    kinds = {node.op_type for node in graph.graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds
    assert verify_classifier(model, Session(graph.SerializeToString()), batch).passed


def test_raw_columns_go_in_where_features_are_made_of_them(tmp_path: Path) -> None:
    raw = {
        "width": np.array([1.0, 2.0, np.nan, 4.0], np.float32),
        "colour": np.array(["red", "blue", "red", ""], object),
        "place": np.array(["a", "b", "c", "d"], object),
    }
    columns = [numeric("width"), vocabulary("colour"), hashed("place", buckets=3)]
    features = {**fit_columns(columns, raw), "targets": NUMBER}
    batch = {name: column.apply(raw) for name, spec in features.items() if (column := column_of(spec)) is not None}
    model = BasicFc(SMALL, features)
    classifier = export(model, tmp_path / "columns", {**batch, "targets": np.zeros(4, np.float32)})
    assert {name: one.kind for name, one in classifier.features.items()} == {
        "width": "number",
        "colour": "category",
        "place": "category",
    }
    rows = [{name: values[row] for name, values in raw.items()} for row in range(4)]
    rows[2] = {"colour": "red", "place": "c"}  # what is missing may be left out
    found = [answer.values for answer in classifier.classify(rows)]
    assert np.array(found)[:, 0] == pytest.approx(forward(model, batch), abs=1e-5)


def test_a_column_cannot_have_the_name_of_an_output() -> None:
    raw = {"values": np.array([1.0, 2.0], np.float32)}
    features = {**fit_columns([numeric("values")], raw), "targets": NUMBER}
    with pytest.raises(InputError, match="column 'values' has the name of an output"):
        export_single_pass(BasicFc(SMALL, features), raw)


@pytest.mark.parametrize("channels", [2, 4])
def test_an_image_has_the_channels_that_a_bundle_takes(channels: int) -> None:
    features = {"inputs": FeatureSpec("inputs", Modality.IMAGE, shape=(8, 8, channels)), "targets": LABEL}
    with pytest.raises(InputError, match=rf"image 'inputs' has {channels} channels; a bundle takes images of 1 or 3"):
        export_single_pass(BasicFc(SMALL, features), random_batch(features, ROWS))


class _Messages(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_a_model_that_looks_at_padding_is_told_of(tmp_path: Path) -> None:
    features = {"inputs": TEXT, "targets": LABEL}
    reporter = _Messages()
    export(LooksAtPadding(SMALL, features), tmp_path / "padding", random_batch(features, ROWS), reporter=reporter)
    assert any("answers depend on the batch" in line for line in reporter.lines)
    report = json.loads((tmp_path / "padding" / "parity.json").read_text())
    assert report["largest_batch_difference"] > report["tolerance"] > report["largest_difference"]


def test_another_models_graph_is_refused() -> None:
    model = CASES["bag_of_embeddings"].make()
    batch = random_batch(model.features, ROWS)
    graph = export_single_pass(model, batch)
    with torch.no_grad():
        model.modality("targets").output.bias.add_(1)  # type: ignore[union-attr]
    with pytest.raises(ParityError, match=r"logits by up to .* of 9 examples with the same class"):
        verify_classifier(model, Session(graph.SerializeToString()), batch)


def test_what_onnx_cannot_express_is_said(tmp_path: Path) -> None:
    features = {"inputs": TEXT, "targets": LABEL}
    with pytest.raises(OperationalError, match="Untranslatable cannot be expressed in ONNX"):
        export(Untranslatable(SMALL, features), tmp_path / "strange", random_batch(features, ROWS))
    assert list(tmp_path.iterdir()) == []


def test_probabilities_are_calibrated_on_many_examples_with_mistakes(tmp_path: Path) -> None:
    case = CASES["bag_of_embeddings"]
    features = {**case.features, "targets": LABEL}
    model = case._replace(features=features).make()
    batches = [random_batch(features, 30, seed=seed) for seed in range(5)]
    reporter = _Messages()
    classifier = export(model, tmp_path / "few", batches[0], calibration=batches[:1], reporter=reporter)
    assert classifier.bundle.manifest.temperature == 1.0
    assert any("30 examples tell too little" in line for line in reporter.lines)
    classifier = export(model, tmp_path / "many", batches[0], calibration=batches, reporter=reporter)
    temperature = classifier.bundle.manifest.temperature
    assert temperature != 1.0
    (answer,) = classifier.classify([np.array([4, 5, 1])], top_k=3)
    scaled = np.array([one.logit for one in answer.labels]) / temperature
    assert [one.probability for one in answer.labels] == pytest.approx(softmax(scaled).tolist(), abs=1e-5)
    report = json.loads((tmp_path / "many" / "parity.json").read_text())["calibration"]
    assert (report["examples"], report["temperature"]) == (150, temperature)
