"""From a trained model that classifies or regresses to a bundle: calibrate, export, check against torch, write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from t2tdeploy.bundle import Bundle, FeatureInput, Manifest, Task, TensorSpec, Variant, require_free, write_bundle
from t2tdeploy.columns.fitted import column_of
from t2tdeploy.columns.values import RawColumn
from t2tdeploy.errors import OperationalError
from t2tdeploy.export.columns import with_columns
from t2tdeploy.export.single_pass import Batch, export_single_pass, graph_input, inputs_of, length_axis, output_names
from t2tdeploy.export.verify_classifier import ClassifierParity, forward, verify_classifier
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.model import Model
from t2tdeploy.problems.class_metrics import calibration_error, fit_temperature, reliability
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.runtime import Session
from t2tdeploy.tokenizer import Tokenizer

MIN_CALIBRATION = 100
"""Examples to fit a temperature on; with fewer it would mostly be noise."""

_TASKS: dict[Modality, Task] = {
    Modality.SYMBOL: "translate",
    Modality.CLASS_LABEL: "classify",
    Modality.MULTI_LABEL: "classify",
    Modality.REAL: "regress",
}
_DTYPES = {
    Modality.SYMBOL: "int64",
    Modality.CLASS_LABEL: "int64",
    Modality.MULTI_LABEL: "float32",
    Modality.REAL: "float32",
    Modality.IMAGE: "uint8",
    Modality.CATEGORY: "int64",
}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature.

    Args:
        examples: it was fitted on.
        error_before, error_after: expected calibration error on them, at temperature 1 and at this one.
    """

    temperature: float
    examples: int
    error_before: float
    error_after: float


def task_of(features: Mapping[str, FeatureSpec]) -> Task:
    """What a model of these features does."""
    return _TASKS[features[Model.target].modality]


def export_classifier(
    model: Model,
    directory: Path,
    *,
    name: str,
    tokenizers: Mapping[str, Tokenizer],
    max_length: int,
    examples: Batch,
    calibration: Sequence[Batch] = (),
    provenance: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Bundle:
    """Writes `model` as a bundle whose graph answers real examples as torch does.

    Args:
        name: what requests call the model.
        tokenizers: of the features that are texts.
        max_length: tokens of the longest text, EOS included.
        examples: real ones, feature -> array as features.py says; the graph is checked on them.
        calibration: others with their labels, of dev, that the temperature is fitted on; none: it is 1.
        provenance: what made the weights; stored as it is.

    Raises:
        ParityError: the graph and the model disagree; nothing is written.
        InputError: `directory` is taken, or a column has the name of an output.
        OperationalError: the graph is too large for one ONNX file, or cannot be expressed in ONNX.
    """
    require_free(directory, overwrite)
    reporter = reporter or SilentReporter()
    fitted = _calibrate(model, calibration, reporter) if calibration else None
    temperature = fitted.temperature if fitted else 1.0
    reporter.message("tracing the model")
    graph = _graph(model, examples, temperature)
    report = verify_classifier(model, Session(graph.SerializeToString()), examples)
    if report.largest_batch_difference > report.tolerance:
        reporter.message(
            f"answers depend on the batch: by up to {report.largest_batch_difference:.2g}; does the model look at "
            "padding? features have a NAME_mask that is False there"
        )
    manifest = _manifest(model, max_length, temperature).model_copy(
        update={"name": name, "metrics": dict(metrics or {}), "provenance": dict(provenance)}
    )
    content: dict[str, bytes | Path] = {
        "model.onnx": with_columns(graph, inputs_of(model)).SerializeToString(),
        "parity.json": _parity_json(report, fitted),
        **{file: tokenizers[feature].to_bytes() for feature, file in manifest.tokenizers.items()},
    }
    return write_bundle(directory, manifest, content, overwrite=overwrite)


def _manifest(model: Model, max_length: int, temperature: float) -> Manifest:
    inputs, spec = inputs_of(model), model.features[model.target]
    features = client_features(inputs, max_length)
    return Manifest(
        task=task_of(model.features),
        name="model",
        inputs=tuple(_input_spec(*item) for item in features.items()),
        outputs=_output_specs(model),
        tokenizers={name: _vocabulary_file(name) for name, one in inputs.items() if one.modality is Modality.SYMBOL},
        features=features,
        classes=spec.classes,
        multi_label=spec.modality is Modality.MULTI_LABEL,
        temperature=temperature,
        variants={"cpu-float32": Variant(file="model.onnx", target="cpu", precision="float32")},
        default_variant="cpu-float32",
    )


def client_features(inputs: Mapping[str, FeatureSpec], max_length: int) -> dict[str, FeatureInput]:
    """What a client sends of an example: features as they are, and raw columns in the place of those made of them."""
    found: dict[str, FeatureInput] = {}
    for name, spec in inputs.items():
        if (column := column_of(spec)) is None:
            found[name] = _feature_input(spec, max_length)
        else:
            found |= {raw.name: _raw_input(raw) for raw in column.raw}
    return found


def _feature_input(spec: FeatureSpec, max_length: int) -> FeatureInput:
    given: dict[str, Any] = {"graph_input": graph_input(spec), "dtype": _DTYPES[spec.modality]}
    match spec.modality:
        case Modality.SYMBOL:
            return FeatureInput(kind="text", max_length=max_length, parts=spec.parts, **given)
        case Modality.IMAGE:
            return FeatureInput(kind="image", shape=spec.shape, **given)
        case Modality.REAL if spec.shape:
            return FeatureInput(kind="tensor", shape=spec.shape, **given)
        case Modality.REAL:
            return FeatureInput(kind="number", **given)
        case Modality.MULTI_LABEL:
            return FeatureInput(kind="tensor", shape=(len(spec.classes),), **given)
    return FeatureInput(kind="category", size=spec.vocab_size or len(spec.classes), **given)


def _raw_input(raw: RawColumn) -> FeatureInput:
    """Fitted columns know what to do where a value is missing."""
    given: dict[str, Any] = {"graph_input": raw.name, "may_be_missing": True}
    if raw.kind == "text":
        return FeatureInput(kind="category", dtype="string", canonical=raw.canonical, **given)
    return FeatureInput(kind="tensor" if raw.shape else "number", dtype="float32", shape=raw.shape, **given)


def _calibrate(model: Model, batches: Sequence[Batch], reporter: Reporter) -> Calibration | None:
    """None where nothing is to be calibrated, or the examples cannot tell: there are too few, or all are predicted
    right, so that the likeliest temperature would be 0."""
    if model.features[model.target].modality is Modality.REAL:
        return None
    count = sum(len(batch[model.target]) for batch in batches)
    parts = []
    with reporter.task("calibrating", total=count, unit="examples") as task:
        for batch in batches:
            parts.append(forward(model, batch))
            task.advance(len(parts[-1]))
    logits = np.concatenate(parts)
    labels: Array = np.concatenate([batch[model.target] for batch in batches])
    right = logits.argmax(-1) == labels if labels.ndim == 1 else ((logits > 0) == (labels > 0.5)).all(-1)
    if count < MIN_CALIBRATION or bool(right.all()):
        reporter.message(f"probabilities are not calibrated: {count} examples tell too little of mistakes")
        return None
    temperature = fit_temperature(logits, labels)
    before, after = (calibration_error(reliability(logits, labels, temperature=one)) for one in (1.0, temperature))
    reporter.message(
        f"temperature {temperature:.3f}, fitted on {count} examples: calibration error {before:.4f} → {after:.4f}"
    )
    return Calibration(temperature, count, before, after)


def _graph(model: Model, examples: Batch, temperature: float) -> onnx.ModelProto:
    from torch.onnx import OnnxExporterError

    try:
        return export_single_pass(model, examples, temperature=temperature)
    except (OnnxExporterError, onnx.checker.ValidationError) as error:
        cause = error.__cause__ or error
        raise OperationalError(
            f"{type(model).__name__} cannot be expressed in ONNX: {cause}",
            help="use operators that torch.onnx translates",
        ) from error


def _input_spec(name: str, feature: FeatureInput) -> TensorSpec:
    axes = ("batch", length_axis(name)) if feature.kind == "text" else ("batch", *feature.shape)
    return TensorSpec(name=feature.graph_input, dtype=feature.dtype, axes=axes)


def _output_specs(model: Model) -> tuple[TensorSpec, ...]:
    spec = model.features[model.target]
    shape = spec.shape if spec.modality is Modality.REAL else (len(spec.classes),)
    return tuple(TensorSpec(name=name, dtype="float32", axes=("batch", *shape)) for name in output_names(model))


def _vocabulary_file(feature: str) -> str:
    return "source.vocab" if feature == "inputs" else f"{feature}.vocab"


def _parity_json(report: ClassifierParity, calibration: Calibration | None) -> bytes:
    fitted = None if calibration is None else asdict(calibration)
    content = {"passed": report.passed, **asdict(report), "calibration": fitted}
    return (json.dumps(content, indent=2) + "\n").encode()
