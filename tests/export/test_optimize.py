"""Laws of variants: measured against float32, refused when too far, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

from t2tdeploy.bundle import FORMAT_VERSION, MANIFEST, Bundle, load_bundle, write_bundle
from t2tdeploy.errors import InputError, QualityError, UnknownNameError
from t2tdeploy.export import optimize
from t2tdeploy.export.agreement import Gate
from t2tdeploy.export.optimize import Corpus, Made, Parallel, check_request, make_variants, write_variants
from t2tdeploy.export.variants import RECIPES, Form, Material, Recipe
from t2tdeploy.progress import SilentReporter
from t2tdeploy.targets import runnable
from t2tdeploy.tokenizer import ByteTokenizer
from t2tdeploy.translator import Translator
from tests.export.graphs import byte_graph
from tests.serving.toy_bundle import toy_manifest

torch.set_num_threads(1)
WORDS = ["Käse", "a house", "two dogs", "snow", "it rains", "be", "the end", "no"]
DEV = Corpus(WORDS, "dev", references=[word.upper() for word in WORDS])
TRAIN = Corpus(["dogs", "a cat", "it snows", "", "Käse"], "train")
ANYTHING = Gate(min_agreement=0.0, max_bleu_loss=100.0)


def write_base(directory: Path) -> Bundle:
    manifest = toy_manifest(beam_size=3)
    manifest = manifest.model_copy(update={"decode": manifest.decode.model_copy(update={"extra_length": 5})})
    files = {"model.onnx": byte_graph().SerializeToString(), "shared.vocab": ByteTokenizer().to_bytes()}
    return write_bundle(directory, manifest, files)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_base(tmp_path_factory.mktemp("base") / "bundle")


@pytest.fixture(scope="module")
def made(base: Bundle) -> dict[str, Made]:
    return make_variants(base, ["cpu-int8", "cuda-fp16"], calibration=TRAIN, dev=DEV, gate=ANYTHING)


def with_recipe(patch: pytest.MonkeyPatch, make: Callable[[ModelProto, Material], ModelProto]) -> str:
    patch.setitem(RECIPES, "cpu-own", Recipe(lambda _: Form("cpu", "int8", "growing"), make, calibrated=True))
    return "cpu-own"


def without_weights(model: ModelProto, _: Material) -> ModelProto:
    """Translates without regard to the source."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 2 and values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(np.roll(values, 1, axis=0), tensor.name))
    return copy


def test_variants_are_added_to_what_was_there(base: Bundle, made: dict[str, Made], tmp_path: Path) -> None:
    written = write_variants(base, tmp_path / "out", made, default="cpu-int8")
    manifest = written.manifest
    assert list(manifest.variants) == ["cpu-float32", "cpu-int8", "cuda-fp16"]
    assert manifest.default_variant == "cpu-int8"
    assert written.path("cpu-float32").read_bytes() == base.path().read_bytes()
    assert written.path().stat().st_size < base.path().stat().st_size
    assert manifest.variants["cpu-float32"].measured is None
    for name, one in made.items():
        assert manifest.variants[name].measured == asdict(one.measured)
        assert one.measured.agreement.sentences == len(WORDS)
        assert one.measured.quality is not None
    assert list(base.manifest.variants) == ["cpu-float32"]
    for name in runnable(written):
        assert Translator(written, variant=name, threads=1).translate(["two dogs"])


def test_only_what_ran_on_its_own_kind_of_machine_has_a_speed(made: dict[str, Made]) -> None:
    speed = made["cpu-int8"].measured.speed
    assert speed is not None
    assert min(speed.tokens_per_second, speed.reference_tokens_per_second, speed.speedup) > 0
    assert made["cuda-fp16"].measured.speed is None
    assert {one.measured.run_on for one in made.values()} == {"cpu"}


def test_without_a_gpu_a_variant_for_it_is_compared_on_the_cpu(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although this onnxruntime says that it was built for one; and it is said why."""
    monkeypatch.setattr(optimize, "available_targets", lambda: ["cpu", "cuda"])
    graph, reporter = base.path().read_bytes(), _Messages()
    forms = [Form(target, "float32", "growing") for target in ("cpu", "cuda")]
    assert [optimize.place(f"{form.target}-float32", graph, form, reporter)[1] for form in forms] == ["cpu", "cpu"]
    (said,) = reporter.heard
    assert said.startswith("cuda-float32 is compared on the CPU: onnxruntime cannot use CUDAExecutionProvider")


class _Messages(SilentReporter):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)


def test_the_same_graph_agrees_with_itself(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    name = with_recipe(monkeypatch, lambda model, _: model)
    measured = make_variants(base, [name], calibration=TRAIN, dev=DEV, gate=Gate(1.0, 0.0))[name].measured
    assert (measured.agreement.identical, measured.agreement.token_agreement) == (1.0, 1.0)
    assert measured.agreement.score_difference_largest == 0.0
    assert measured.quality is not None
    assert measured.quality.bleu == measured.quality.reference_bleu
    assert measured.failures == []


def test_a_variant_that_is_too_far_is_written_only_by_force(
    base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = with_recipe(monkeypatch, without_weights)
    far = make_variants(base, [name], calibration=TRAIN, dev=replace(DEV, references=None), gate=Gate())
    with pytest.raises(QualityError, match=r"cpu-own: token agreement 0\.\d+ is below 0\.9"):
        write_variants(base, tmp_path / "out", far)
    assert list(tmp_path.iterdir()) == []
    written = write_variants(base, tmp_path / "out", far, force=True)
    measured = written.manifest.variants[name].measured
    assert measured is not None
    assert measured["forced"]
    assert len(measured["failures"]) == 1


def test_what_is_compared_on_does_not_calibrate(base: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Material] = []

    def spy(model: ModelProto, material: Material) -> ModelProto:
        seen.append(material)
        return model

    make_variants(base, [with_recipe(monkeypatch, spy)], calibration=TRAIN, dev=DEV, gate=ANYTHING)
    tokenizer = base.tokenizer("inputs")
    assert [tokenizer.decode(list(row[:-1])) for row in seen[0].sources] == ["dogs", "a cat", "it snows"]
    assert seen[0].decode == base.manifest.decode


def test_sentences_that_are_missing_are_asked_for(base: Bundle) -> None:
    with pytest.raises(InputError, match="no sentences to calibrate with") as caught:
        make_variants(base, ["cpu-int8"], calibration=None, dev=DEV, gate=ANYTHING)
    assert "--calibration" in str(caught.value.help)
    with pytest.raises(InputError, match="dev has them all"):
        make_variants(base, ["cpu-int8"], calibration=Corpus(["snow", "no"], "file"), dev=DEV, gate=ANYTHING)
    with pytest.raises(InputError, match="holds no sentence"):
        make_variants(base, ["cpu-int8"], calibration=TRAIN, dev=Corpus(["", " "], "file"), gate=ANYTHING)


def test_a_shortlist_is_made_of_sentences_with_their_translations(base: Bundle, tmp_path: Path) -> None:
    many = "abcdefghijklmnopqrstuvwxyz0123456789"  # of which the widest beam has enough to choose from
    parallel = Parallel(Corpus(["dogs", "", "snow", many], "pairs", references=["gods", "", "wons", many]), width=4)
    made = make_variants(base, ["cpu-int8-shortlist"], calibration=TRAIN, dev=DEV, gate=ANYTHING, parallel=parallel)
    written = write_variants(base, tmp_path / "out", made, default="cpu-int8-shortlist")
    measured = written.manifest.variants["cpu-int8-shortlist"].measured
    assert measured is not None
    assert measured["aligned_on"] == "pairs"
    found = Translator(written, threads=1).translate(["snow"])[0]
    assert set(found[0].text) <= {*many}


def test_sentences_without_translations_make_no_shortlist(base: Bundle) -> None:
    for corpus in (None, TRAIN, Corpus(["", "a", "b" * 300], "pairs", references=["b", " ", "a"])):
        parallel = None if corpus is None else Parallel(corpus)
        with pytest.raises(InputError, match="no sentences with their translations") as caught:
            make_variants(base, ["cpu-int8-shortlist"], calibration=TRAIN, dev=DEV, gate=ANYTHING, parallel=parallel)
        assert "--parallel-source" in str(caught.value.help)


def test_names_and_places_are_checked_before_the_work(base: Bundle, tmp_path: Path) -> None:
    def check(*names: str, output: Path = tmp_path / "out", default: str | None = None) -> None:
        check_request(base, output, names, default=default, overwrite=False)

    check("cpu-int8", default="cpu-int8")
    check(default="cpu-float32")
    with pytest.raises(
        UnknownNameError, match=r"unknown variant 'cpu-int9'.*cpu-int8, cpu-int8-shortlist, cuda-fp16"
    ) as caught:
        check("cpu-int9")
    assert caught.value.nearest == "cpu-int8"
    with pytest.raises(UnknownNameError, match="unknown default variant 'cpu-int8'"):
        check("cuda-fp16", default="cpu-int8")
    with pytest.raises(InputError, match="already exists"):
        check("cpu-int8", output=base.directory)


def test_a_bundle_may_take_its_own_place(made: dict[str, Made], tmp_path: Path) -> None:
    bundle = write_base(tmp_path / "bundle")
    write_variants(bundle, bundle.directory, made, overwrite=True)
    again = load_bundle(bundle.directory)
    assert set(again.manifest.variants) == {"cpu-float32", *made}
    once_more = write_variants(again, again.directory, {"cpu-int8": made["cpu-int8"]}, overwrite=True)
    assert once_more.manifest == again.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_that_cannot_be_written_leaves_the_old_one(
    made: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_base(tmp_path / "bundle")
    before = (bundle.directory / MANIFEST).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("t2tdeploy.bundle._put", full)
    with pytest.raises(Exception, match="No space left"):
        write_variants(bundle, bundle.directory, made, overwrite=True)
    assert (bundle.directory / MANIFEST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_is_written_has_the_present_format(made: dict[str, Made], base: Bundle, tmp_path: Path) -> None:
    old = Bundle(base.directory, base.manifest.model_copy(update={"format_version": 1}))
    written = write_variants(old, tmp_path / "out", made)
    assert json.loads((written.directory / MANIFEST).read_text())["format_version"] == FORMAT_VERSION
