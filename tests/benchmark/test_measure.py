"""Laws of the benchmark: everything asked for is measured, on the same batches; what fails is left out and named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.benchmark import measure
from t2tdeploy.benchmark.measure import Plan, batches_of, benchmark, percentile
from t2tdeploy.benchmark.plot import plot
from t2tdeploy.benchmark.process import Job, VariantProcess
from t2tdeploy.bundle import Bundle, Variant, write_bundle
from t2tdeploy.errors import InputError, OperationalError, RequestError
from t2tdeploy.pictures import require_drawable
from t2tdeploy.sentences import Sentence
from t2tdeploy.translator import BUNDLE_DEFAULTS, TranslateOptions
from tests.serving.toy_bundle import toy_files, toy_manifest

SOURCES = ["Käse", "a house", "", "two dogs in the snow", "x" * 500]
SENTENCES = [Sentence([*range(3, 3 + length), 1]) for length in (4, 9, 2, 7, 2)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two variants of one graph, and one that no runtime reads."""
    manifest = toy_manifest()
    first = manifest.variants["cpu-float32"]
    variants = {
        "cpu-float32": first,
        "cpu-int8": first,
        "broken": Variant(file="broken.onnx", target="cpu", precision="int8", layout="growing"),
    }
    manifest = manifest.model_copy(update={"variants": variants})
    files = {**toy_files(), "broken.onnx": b"no graph"}
    return write_bundle(tmp_path_factory.mktemp("bundle") / "toy", manifest, files)


def plan(*variants: str, threads: Sequence[int] = (1,), sizes: Sequence[int] = (1, 3), seconds: float = 0.05) -> Plan:
    return Plan(variants, threads, sizes, seconds)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 16))
def test_batches_are_full_and_hold_every_sentence(lengths: list[int], size: int) -> None:
    sentences = [Sentence([5 + place, *[4] * length, 1]) for place, length in enumerate(lengths)]
    batches = batches_of(sentences, size)
    assert {len(batch) for batch in batches} == {size}
    held = {sentence.ids[0] for batch in batches for sentence in batch}
    assert held == {sentence.ids[0] for sentence in sentences}
    assert len(batches) == math.ceil(len(sentences) / size)
    assert batches_of(sentences, size) == batches


@given(st.lists(st.floats(0, 100), min_size=1, max_size=150), st.sampled_from([0.01, 0.5, 0.99, 1.0]))
def test_a_percentile_is_the_least_value_that_covers_its_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_all_combinations_are_measured_and_a_broken_variant_is_named(bundle: Bundle, tmp_path: Path) -> None:
    report = benchmark(bundle, SOURCES, plan("cpu-float32", "broken", "cpu-int8", threads=(1, 2)))
    measured = {(one.variant, one.threads, one.batch_size) for one in report.speeds}
    assert measured == set(product(("cpu-float32", "cpu-int8"), (1, 2), (1, 3)))
    assert report.sentences == 4  # the blank one is left out
    for one in report.speeds:
        assert min(one.tokens_per_second, one.sentences_per_second, one.p50_ms) > 0
        assert (one.p99_ms is None) == (one.batches < measure.SAMPLES_FOR_P99)
        assert one.p99_ms is None or one.p99_ms >= one.p50_ms
    for one in report.footprints:
        if one.variant == "broken":
            assert "onnxruntime cannot load it" in str(one.failed)
        else:
            assert one.failed is None
            assert one.peak_bytes >= one.loaded_bytes > 10e6  # type: ignore[operator]
    assert len(report.footprints) == 6
    plot(report, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_p99_needs_samples(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmark(bundle, SOURCES, plan("cpu-float32", sizes=(1,), seconds=1e-9)).speeds[0].p99_ms is None
    monkeypatch.setattr(measure, "SAMPLES_FOR_P99", 5)
    assert benchmark(bundle, SOURCES, plan("cpu-float32", sizes=(1,), seconds=1e-9)).speeds[0].p99_ms is not None


def test_what_nobody_can_run_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(OperationalError, match="onnxruntime cannot load it"):
        benchmark(bundle, SOURCES, plan("broken"))
    with pytest.raises(InputError, match="no sentence"):
        benchmark(bundle, ["", " "], plan("cpu-float32"))
    with pytest.raises(RequestError, match="beam_size"):
        benchmark(bundle, SOURCES, Plan(["cpu-float32"], [1], [1], 0.05, TranslateOptions(beam_size=99)))


def test_tokens_are_those_of_the_translations(bundle: Bundle) -> None:
    """The toy translates a sentence into itself."""
    with VariantProcess(Job(bundle.directory, "cpu-float32", 1, BUNDLE_DEFAULTS)) as process:
        assert process.loaded().load_seconds > 0
        found = process.run([SENTENCES[:2], SENTENCES[2:]])
        assert [one.tokens for one in found] == [15, 14]
        assert all(one.seconds > 0 for one in found)


def test_a_process_that_dies_is_an_error_with_its_status(bundle: Bundle) -> None:
    with VariantProcess(Job(bundle.directory, "cpu-float32", 1, BUNDLE_DEFAULTS)) as process:
        process.loaded()
        process._process.kill()
        with pytest.raises(OperationalError, match="cpu-float32 with 1 thread ended with status -9") as caught:
            process.run([SENTENCES])
        assert "memory" in str(caught.value.help)


@pytest.mark.parametrize(("name", "reason"), [("a.jpg", r"\.pdf, \.png, \.svg"), ("nowhere/a.png", "is not a folder")])
def test_a_chart_that_cannot_be_written_is_refused_beforehand(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        require_drawable(tmp_path / name)
