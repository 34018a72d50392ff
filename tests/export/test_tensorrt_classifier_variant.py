"""The variant for TensorRT of models that classify or regress: their own graph, with the sizes that engines take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from t2tdeploy import tensorrt_engines
from t2tdeploy.bundle import Bundle
from t2tdeploy.classifier import Classifier
from t2tdeploy.errors import InputError, OperationalError
from t2tdeploy.export.class_agreement import ClassifierGate, ClassifierMeasured
from t2tdeploy.export.optimize import Made, write_variants
from t2tdeploy.export.optimize_classifier import Labelled, make_classifier_variants
from t2tdeploy.export.tensorrt_variant import TensorRTOptions
from t2tdeploy.tensorrt_engines import gpu_name
from tests.export.test_classifier import example
from tests.export.test_optimize_classifier import LENIENT, examples_of, exported, with_raw_columns
from tests.models.labelled import CASES

FLOAT32 = TensorRTOptions(precision="float32", usual_batch_size=4, max_batch_size=8)
FLOAT16 = TensorRTOptions()


def made_of(name: str, folder: Path, options: TensorRTOptions, gate: ClassifierGate = LENIENT) -> tuple[Bundle, Made]:
    case = CASES[name]
    dev = Labelled([examples_of(case.features, 2)], "others")
    bundle = exported(case.make(), folder / "float", dev.batches[0])
    made = make_classifier_variants(bundle, ["tensorrt"], calibration=dev, dev=dev, gate=gate, tensorrt=options)
    return bundle, made["tensorrt"]


@pytest.fixture
def _not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engines, "LIBRARIES", ("tensorrt_of_nowhere",))
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.mark.usefixtures("_not_installed")
@pytest.mark.parametrize("name", ["transformer_encoder", "basic_fc", "convolution"])
def test_float32_is_the_graph_of_the_bundle(name: str, tmp_path: Path) -> None:
    bundle, made = made_of(name, tmp_path, FLOAT32, ClassifierGate(0.0, 0.0))
    measured = made.measured
    assert isinstance(measured, ClassifierMeasured)
    assert measured.accuracy == measured.reference_accuracy
    assert (measured.run_on, measured.speed, measured.calibrated_on, measured.failures) == ("cpu", None, None, [])
    assert measured.build is not None
    assert measured.build.failure == "neither tensorrt nor tensorrt_rtx is installed"
    written = write_variants(bundle, tmp_path / "both", {"tensorrt": made})
    variant = written.variant("tensorrt")
    assert variant.profile is not None
    assert {axes[0] for axes in variant.profile.values()} == {(1, 4, 8)}
    texts = [one for one in bundle.manifest.features.values() if one.max_length is not None]
    for text in texts:
        assert variant.profile[text.graph_input][1] == (1, min(32, text.max_length), text.max_length)
    dev = examples_of(CASES[name].features, 2)
    assert Classifier(written, threads=1).classify([example(CASES[name].features, dev, 0)])
    with pytest.raises(OperationalError, match="TensorRT cannot be imported"):
        Classifier(written, variant="tensorrt", threads=1)


@pytest.mark.usefixtures("_not_installed")
@pytest.mark.parametrize("name", ["transformer_encoder", "resnet"])
def test_float16_is_close(name: str, tmp_path: Path) -> None:
    _, made = made_of(name, tmp_path, FLOAT16)
    assert made.form.precision == "float16"
    assert isinstance(made.measured, ClassifierMeasured)
    assert made.measured.bytes < made.measured.reference_bytes
    assert made.measured.identical is None or made.measured.identical > 0.9
    assert made.measured.failures == []


@pytest.mark.skipif(gpu_name() is not None, reason="builds for no GPU, but there is one")
@pytest.mark.parametrize("options", [FLOAT32, FLOAT16], ids=["float32", "float16"])
def test_an_engine_is_built_where_tensorrt_is_installed(options: TensorRTOptions, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    build = made_of("transformer_encoder", tmp_path, options)[1].measured.build
    assert build is not None
    assert (build.failure, build.refused) == (None, False)
    assert build.bytes is not None
    assert build.bytes > 1000


def test_columns_of_strings_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    _, _, batch, bundle = with_raw_columns(tmp_path / "float")
    data = Labelled([batch], "some")
    with pytest.raises(InputError, match="TensorRT"):
        make_classifier_variants(bundle, ["tensorrt"], calibration=data, dev=data, gate=LENIENT)
