"""Variants of bundles that classify or regress: made, and measured against the float32 graph on labelled examples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import InputError
from t2tdeploy.export.agreement import ROUNDS
from t2tdeploy.export.class_agreement import ClassifierGate, ClassifierMeasured, ClassifierSpeed
from t2tdeploy.export.columns import with_columns, without_columns
from t2tdeploy.export.half import halved
from t2tdeploy.export.optimize import Made, build_of, place, reference_of, refusals
from t2tdeploy.export.quantize_single_pass import quantize_single_pass
from t2tdeploy.export.single_pass import Batch, graph_input, length_axis
from t2tdeploy.export.tensorrt import profile_of
from t2tdeploy.export.tensorrt_operators import require_supported
from t2tdeploy.export.tensorrt_variant import TensorRTOptions, named_axes
from t2tdeploy.export.variants import Form
from t2tdeploy.features import FeatureSpec
from t2tdeploy.machine import cpu_model
from t2tdeploy.problems.dataset import Dataset
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.runtime import Session

NAMES = ("cpu-int8", "tensorrt")
CALIBRATION_EXAMPLES = 512
"""Examples to calibrate with, at most."""
COMPARED_EXAMPLES = 2000
"""Examples to compare on, at most."""
BATCH = 32
"""Of both."""
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """Examples, with their labels where variants are compared on them.

    Args:
        batches: feature -> array as features.py says.
        origin: where they come from, for the manifest.
    """

    batches: Sequence[Batch]
    origin: str


def calibration_examples(split: Dataset, origin: str) -> Labelled:
    """Up to CALIBRATION_EXAMPLES examples to calibrate with; their labels are not looked at."""
    return _spread(split, CALIBRATION_EXAMPLES, origin)


def compared_examples(split: Dataset, origin: str) -> Labelled:
    """Up to COMPARED_EXAMPLES labelled examples to compare variants on."""
    return _spread(split, COMPARED_EXAMPLES, origin)


def _spread(split: Dataset, count: int, origin: str) -> Labelled:
    """Examples spread over a split, in batches of similar length."""
    order = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).astype(np.int64))
    order = order[np.argsort(split.example_lengths[order], kind="stable")]
    return Labelled([split.batch(order[start : start + BATCH]) for start in range(0, len(order), BATCH)], origin)


def make_classifier_variants(
    bundle: Bundle,
    names: Sequence[str],
    *,
    calibration: Labelled,
    dev: Labelled,
    gate: ClassifierGate,
    tensorrt: TensorRTOptions | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Made]:
    """Makes the variants `names` and measures each against the bundle's float32 graph. Writes nothing.

    Args:
        calibration: what the ranges of activations are measured on.
        dev: what the graphs are compared on.
        tensorrt: how the variant for TensorRT is made.

    Raises:
        InputError: there is no such variant for this task, the bundle does not say what its features are, or the graph
            has operators that TensorRT does not have.
    """
    reporter = reporter or SilentReporter()
    for name in names:
        if name not in NAMES:
            raise InputError(
                f"{name} is not made of models that {bundle.manifest.task}; there is {', '.join(NAMES)}",
                help="leave it out",
            )
    reference = reference_of(bundle)
    features = {name: spec for name, spec in recorded_features(bundle).items() if name != "targets"}
    model = without_columns(onnx.load(bundle.path(reference)), features)
    made, options = {}, tensorrt or TensorRTOptions()
    for name in names:
        reporter.message(f"making {name}")
        graph = _graph(name, model, [_feeds(batch, features) for batch in calibration.batches], options)
        whole = with_columns(graph, features)
        form, content = _form(name, bundle, whole, options), whole.SerializeToString()
        if form.target == "tensorrt":
            require_supported(whole)
        build = build_of(content, name, form, reporter)
        session, run_on = place(name, graph.SerializeToString(), _form(name, bundle, graph, options), reporter)
        sessions = (session, Session(model.SerializeToString()))
        measured = _measure(bundle, sessions, dev, features, gate, reporter, timed=run_on == form.target)
        failures = [*measured.pop("failures"), *refusals(build)]
        found = ClassifierMeasured(
            reference=reference,
            compared_on=dev.origin,
            calibrated_on=calibration.origin if name == "cpu-int8" else None,
            run_on=run_on,
            bytes=len(content),
            reference_bytes=bundle.size(reference),
            gate=gate,
            build=build,
            failures=failures,
            **measured,
        )
        made[name] = Made(form, content, found)
    return made


def _graph(name: str, model: ModelProto, feeds: Sequence[Mapping[str, Array]], options: TensorRTOptions) -> ModelProto:
    """The variant `name` of a model without raw columns."""
    if name == "cpu-int8":
        return quantize_single_pass(model, feeds)
    return halved(model) if options.precision == "float16" else model


def _form(name: str, bundle: Bundle, graph: ModelProto, options: TensorRTOptions) -> Form:
    if name == "cpu-int8":
        return Form("cpu", "int8", None)
    features = bundle.manifest.features.items()
    lengths = {length_axis(name): one.max_length for name, one in features if one.max_length is not None}
    return Form("tensorrt", options.precision, None, profile=profile_of(graph, **named_axes(lengths, options)))


def recorded_features(bundle: Bundle) -> dict[str, FeatureSpec]:
    """The features of the model, "targets" among them, as its run recorded them.

    Raises:
        InputError: the bundle does not have them.
    """
    recorded = bundle.manifest.provenance.get("features")
    if not isinstance(recorded, Mapping):
        raise InputError(f"{bundle.directory} does not say what it was trained on", path=bundle.directory)
    return {name: FeatureSpec.from_json(one) for name, one in recorded.items()}


def _feeds(batch: Batch, features: Mapping[str, FeatureSpec]) -> dict[str, Array]:
    return {graph_input(spec): batch[name] for name, spec in features.items()}


def _measure(
    bundle: Bundle,
    sessions: Sequence[Session],
    dev: Labelled,
    features: Mapping[str, FeatureSpec],
    gate: ClassifierGate,
    reporter: Reporter,
    *,
    timed: bool,
) -> dict[str, Any]:
    """What is measured of both graphs, the variant's first, by the names of ClassifierMeasured."""
    feeds = [_feeds(batch, features) for batch in dev.batches]
    output = "logits" if bundle.manifest.classes else "values"
    own, others = (_outputs(session, output, feeds) for session in sessions)
    labels: Array = np.concatenate([batch["targets"] for batch in dev.batches])
    scores: dict[str, Any] = dict.fromkeys(("identical", "accuracy", "reference_accuracy", "rmse", "reference_rmse"))
    failures = [] if np.isfinite(own).all() else ["an output is no number"]
    if bundle.manifest.classes:
        chosen, expected = _chosen(own, labels), _chosen(others, labels)
        right = labels if labels.ndim == 1 else labels > 0.5
        scores["identical"] = float(_same(chosen, expected).mean())
        scores["accuracy"] = float(_same(chosen, right).mean())
        scores["reference_accuracy"] = float(_same(expected, right).mean())
        lost = int(_same(expected, right).sum()) - int(_same(chosen, right).sum())
        words = (
            f"accuracy {scores['accuracy']:.4f} is {lost / len(labels):.4f} below the "
            f"{scores['reference_accuracy']:.4f} of float32, that is {lost} of {len(labels)} examples"
        )
        if lost > gate.allowed(len(labels)):
            failures.append(f"{words}, more than {gate.max_accuracy_loss:g}")
        elif lost > gate.tolerated(len(labels)):
            reporter.message(f"{words}: more than {gate.max_accuracy_loss:g}, but one example may always be lost")
    else:
        scores["rmse"], scores["reference_rmse"] = (
            float(np.sqrt(np.mean((one - labels.reshape(one.shape)) ** 2))) for one in (own, others)
        )
        if scores["rmse"] > scores["reference_rmse"] * (1 + gate.max_error_growth):
            failures.append(
                f"rmse {scores['rmse']:.5g} is more than {gate.max_error_growth:.0%} above the "
                f"{scores['reference_rmse']:.5g} of float32"
            )
    speed = _speed(sessions, output, feeds, reporter) if timed else None
    return {**scores, "examples": len(labels), "speed": speed, "failures": failures}


def _outputs(session: Session, output: str, feeds: Sequence[Mapping[str, Array]]) -> Array:
    return np.concatenate([session.call([output], one)[0] for one in feeds])


def _chosen(logits: Array, labels: Array) -> Array:
    """The likeliest class, or of sets of labels those that are likelier than not."""
    return np.asarray(logits.argmax(-1) if labels.ndim == 1 else logits > 0)


def _same(found: Array, wanted: Array) -> Array:
    equal = np.asarray(found == wanted)
    return equal if equal.ndim == 1 else np.asarray(equal.all(-1))


def _speed(
    sessions: Sequence[Session], output: str, feeds: Sequence[Mapping[str, Array]], reporter: Reporter
) -> ClassifierSpeed:
    """Both take turns, and each round begins with the other."""
    sizes = [len(next(iter(one.values()))) for one in feeds]
    rates: list[list[float]] = [[], []]
    with reporter.task("timing", total=ROUNDS, unit="rounds") as task:
        for number in range(ROUNDS):
            for which in ((0, 1), (1, 0))[number % 2]:
                begun = time.perf_counter()
                _outputs(sessions[which], output, feeds)
                rates[which].append(sum(sizes) / (time.perf_counter() - begun))
            task.advance()
    own, others = rates
    return ClassifierSpeed(
        examples_per_second=round(statistics.median(own), 1),
        reference_examples_per_second=round(statistics.median(others), 1),
        speedup=round(statistics.median(one / other for one, other in zip(own, others, strict=True)), 3),
        batch_size=max(sizes),
        threads=sessions[0].threads,
        cpu=cpu_model(),
    )
