"""The variant for TensorRT: the bundle's own search, whose engine TensorRT builds where it is installed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from t2tdeploy import tensorrt_engines
from t2tdeploy.bundle import Bundle, load_bundle
from t2tdeploy.errors import InputError, QualityError, SettingsError
from t2tdeploy.export import optimize, tensorrt, tensorrt_variant
from t2tdeploy.export.agreement import Gate
from t2tdeploy.export.optimize import Made, make_variants, write_variants
from t2tdeploy.export.tensorrt_variant import Build, TensorRTOptions, require_same_weights, search_profile, try_build
from t2tdeploy.export.verify import verify
from t2tdeploy.runtime import GraphSession
from t2tdeploy.targets import require_runnable, runnable
from t2tdeploy.tensorrt_engines import InputsProfile, gpu_name
from t2tdeploy.tokenizer import ByteTokenizer
from t2tdeploy.translator import Translator
from tests.export.graphs import byte_graph, byte_model, static_byte_graph
from tests.export.test_optimize import DEV, WORDS, write_base
from tests.models.tiny import random_sources, tiny_transformer

torch.set_num_threads(1)
FLOAT32 = TensorRTOptions(precision="float32")
PROFILE = search_profile(FLOAT32, longest=40)


def not_installed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tensorrt_engines, "LIBRARIES", ("tensorrt_of_nowhere",))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_base(tmp_path_factory.mktemp("base") / "bundle")


def make(base: Bundle, options: TensorRTOptions = FLOAT32, gate: Gate | None = None) -> dict[str, Made]:
    return make_variants(
        base, ["tensorrt"], calibration=None, dev=DEV, gate=gate or Gate(), trained=byte_model(), tensorrt=options
    )


@pytest.fixture(scope="module")
def made(base: Bundle) -> dict[str, Made]:
    """In float32, where no TensorRT is installed."""
    with pytest.MonkeyPatch.context() as patch:
        not_installed(patch)
        return make(base, gate=Gate(min_agreement=1.0, max_bleu_loss=0.0))


def test_it_is_the_search_of_the_bundle(made: dict[str, Made]) -> None:
    measured = made["tensorrt"].measured
    assert (measured.agreement.identical, measured.agreement.token_agreement) == (1.0, 1.0)
    assert measured.agreement.score_difference_largest < 1e-4
    assert measured.quality.bleu == measured.quality.reference_bleu
    assert (measured.run_on, measured.speed, measured.failures) == ("cpu", None, [])


def test_it_is_the_oracle(base: Bundle, made: dict[str, Made]) -> None:
    decode = base.decode
    session = GraphSession(made["tensorrt"].graph, threads=1, fixed=decode)
    sources = random_sources(ByteTokenizer.vocab_size, seed=5, count=4)
    asked = {"beam_size": decode.beam_size, "alpha": decode.alpha, "num_hypotheses": 1}
    assert verify(byte_model(), session, sources, extra_length=decode.extra_length, **asked).identical == 4


def test_the_manifest_says_what_is_fixed_and_what_engines_take(
    base: Bundle, made: dict[str, Made], tmp_path: Path
) -> None:
    written = write_variants(base, tmp_path / "out", made)
    variant = load_bundle(written.directory).variant("tensorrt")
    assert (variant.target, variant.precision, variant.layout) == ("tensorrt", "float32", "static")
    assert variant.fixed == base.decode
    assert variant.profile == {"source_ids": ((1, 16, 64), (1, 32, 200)), "max_length": ((1, 16, 64),)}
    assert variant.measured == asdict(made["tensorrt"].measured)
    assert variant.measured["build"]["failure"] == "neither tensorrt nor tensorrt_rtx is installed"
    assert runnable(written) == ["cpu-float32"]
    require_runnable(written, None)
    assert Translator(written, threads=1).translate(["two dogs"], beam_size=2)


def test_float16_is_close(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    not_installed(monkeypatch)
    one = make(base, TensorRTOptions(usual_length=8), Gate(min_agreement=0.0, max_bleu_loss=100.0))["tensorrt"]
    assert one.form.precision == "float16"
    assert onnx.TensorProto.FLOAT16 in {
        tensor.data_type for tensor in onnx.load_from_string(one.graph).graph.initializer
    }
    assert one.measured.agreement.token_agreement > 0.5
    assert one.form.profile.shapes()["opt"] == {"source_ids": (16, 8), "max_length": (16,)}


def test_where_an_engine_runs_it_is_compared_on_it(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU takes its place."""
    seen = []

    def session(graph: Path | bytes, *, target: str = "cpu", profile: InputsProfile | None = None, **more: object):
        seen.append((target, profile))
        return GraphSession(graph, threads=1, **more)

    not_installed(monkeypatch)
    monkeypatch.setattr(optimize, "available_targets", lambda: ["cpu", "cuda", "tensorrt"])
    monkeypatch.setattr(optimize, "GraphSession", session)
    one = make(base)["tensorrt"]
    assert ("tensorrt", one.form.profile) in seen
    assert one.measured.run_on == "tensorrt"
    assert one.measured.speed is not None


def test_a_refusal_fails_the_gate(base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Build("tensorrt_rtx", "1.7", None, failure="it refused the graph", refused=True)
    monkeypatch.setattr(optimize, "try_build", lambda *_: refused)
    found = make(base)
    with pytest.raises(QualityError, match="tensorrt: it refused the graph"):
        write_variants(base, tmp_path / "out", found)
    assert list(tmp_path.iterdir()) == []
    written = write_variants(base, tmp_path / "out", found, force=True)
    measured = written.variant("tensorrt").measured
    assert measured is not None
    assert (measured["forced"], measured["failures"]) == (True, ["it refused the graph"])


def test_a_search_that_is_too_far_is_refused(base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made with another alpha, as a fault would."""
    not_installed(monkeypatch)
    monkeypatch.setattr(
        "t2tdeploy.export.static_search.export_variant", lambda *_, **__: static_byte_graph(beam_size=1, extra_length=1)
    )
    with pytest.raises(QualityError, match="too far from float32"):
        write_variants(base, tmp_path / "out", make(base, gate=Gate(min_agreement=1.0)))


def test_another_model_is_refused(base: Bundle) -> None:
    require_same_weights(byte_graph(), byte_model())
    other = tiny_transformer(ByteTokenizer.vocab_size, seed=4)
    with pytest.raises(InputError, match="the run is not the one that the bundle was exported from"):
        make_variants(base, ["tensorrt"], calibration=None, dev=DEV, gate=Gate(), trained=other)
    with pytest.raises(InputError, match="trained model, which is not at hand") as caught:
        make_variants(base, ["tensorrt"], calibration=None, dev=DEV, gate=Gate())
    assert "--output-dir" in str(caught.value.help)


@pytest.mark.skipif(gpu_name() is not None, reason="builds for no GPU, but there is one")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_engine_is_built_where_tensorrt_is_installed(base: Bundle, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    measured = make(base, TensorRTOptions(precision=precision), Gate(0.0, 100.0))["tensorrt"].measured
    assert (measured.build.failure, measured.build.refused, measured.failures) == (None, False, [])
    assert measured.build.library in tensorrt_engines.LIBRARIES
    assert measured.build.gpu is None
    assert measured.build.bytes > 100_000
    assert measured.agreement.sentences == len(WORDS)


def test_builds_that_cannot_be_are_no_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = tensorrt_engines.Platform("tensorrt", "10.16", None)
    monkeypatch.setattr(tensorrt_variant, "this_platform", lambda: platform)
    found = try_build(b"", "tensorrt", PROFILE)
    assert found.failure == "there is no GPU here, without which only tensorrt-rtx builds"
    assert not found.refused


def test_what_cannot_be_built_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = tensorrt_engines.Platform("tensorrt_rtx", "1.7", None)
    monkeypatch.setattr(tensorrt_variant, "this_platform", lambda: platform)
    monkeypatch.setattr(tensorrt, "this_platform", lambda: platform)
    found = try_build(byte_graph().SerializeToString(), "tensorrt", PROFILE)  # its caches grow
    assert found.refused
    assert "may change from step to step" in str(found.failure)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("precision=int8", "precision = 'int8': input should be 'float16' or 'float32'"),
        ("usual_batch_size=65", "usual_batch_size = 65 is more than max_batch_size = 64"),
        ("batch_size=3", "did you mean 'max_batch_size'"),
    ],
)
def test_options_that_cannot_be_are_told(options: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TensorRTOptions().override(options)


def test_texts_shorter_than_usual_are_usual() -> None:
    assert np.ravel(search_profile(FLOAT32, longest=20).recorded()["source_ids"]).tolist() == [1, 16, 64, 1, 20, 20]
