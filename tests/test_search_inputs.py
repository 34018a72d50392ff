"""A search of static layout answers as the one that grows, and refuses whoever asks for another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2tdeploy.benchmark.measure import Plan, benchmark
from t2tdeploy.bundle import Bundle, Variant, load_bundle, write_bundle
from t2tdeploy.decoding import NO_CONTROLS, SearchControls
from t2tdeploy.errors import InputError, RequestError
from t2tdeploy.export.triton import write_triton
from t2tdeploy.manifest import DecodeDefaults
from t2tdeploy.search_inputs import require_fixed
from t2tdeploy.serving.client import Client
from t2tdeploy.tokenizer import ByteTokenizer
from t2tdeploy.translator import TranslateOptions, Translator
from tests.export.graphs import byte_graph, static_byte_graph
from tests.serving.running import running
from tests.serving.toy_bundle import toy_manifest

torch.set_num_threads(1)
SENTENCES = ["Käse", "a house", "", "two dogs", "it rains"]
DECODE = DecodeDefaults(beam_size=3, alpha=0.6, extra_length=5, max_source_length=200)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With a static variant that CPUs run."""
    static = Variant(file="static.onnx", target="cpu", precision="float32", layout="static", fixed=DECODE)
    manifest = toy_manifest(beam_size=3)
    manifest = manifest.model_copy(
        update={"decode": DECODE, "variants": {**manifest.variants, "static": static}, "default_variant": "static"}
    )
    graphs = {"model.onnx": byte_graph(), "static.onnx": static_byte_graph()}
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    files["shared.vocab"] = ByteTokenizer().to_bytes()
    return write_bundle(tmp_path_factory.mktemp("static") / "bundle", manifest, files)


@pytest.fixture(scope="module")
def static(bundle: Bundle) -> Translator:
    return Translator(bundle, threads=1)


def test_both_layouts_give_the_same_answers(bundle: Bundle, static: Translator) -> None:
    growing = Translator(bundle, variant="cpu-float32", threads=1)
    for options in ({}, {"extra_length": 2}, {"max_length": 4}, {"return_attention": True}, {"beam_size": 3}):
        found, wanted = (each.translate(SENTENCES, **options) for each in (static, growing))
        assert [one[0].ids for one in found] == [one[0].ids for one in wanted]
        np.testing.assert_allclose([one[0].score for one in found], [one[0].score for one in wanted], atol=1e-4)
        assert [len(one[0].details) for one in found] == [len(one[0].details) for one in wanted]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 2}, r"options\.beam_size: 2 is asked for; the search of this variant has 3, fixed when"),
        ({"alpha": 1.0}, r"options\.alpha: 1\.0 is asked for; .* has 0\.6"),
        ({"num_hypotheses": 2}, r"options\.num_hypotheses: 2 is asked for; .* has 1,"),
        ({"extra_length": 6}, r"options\.extra_length: 6 is asked for; .* has 5,"),
        ({"early_stopping": True}, r"options\.early_stopping: a patience of 1 is asked for; .* has no early stopping"),
        ({"min_length": 3}, r"options\.min_length: the search of this variant was made without it"),
        ({"temperature": 0.5}, r"options\.temperature: the search of this variant was made without it"),
        ({"suppress_unknown": True}, r"options\.suppress_unknown: .* made without it"),
        ({"alternatives": True}, r"options\.alternatives: .* made without it"),
        ({"target_prefixes": ["a"]}, r"target_prefixes: .* made without it"),
    ],
)
def test_what_is_fixed_cannot_be_asked(static: Translator, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        static.translate(["a house"], **options)
    assert "ask another variant of the bundle" in str(caught.value.help)


def test_a_static_search_does_not_score(static: Translator) -> None:
    with pytest.raises(RequestError, match="scores: the search of this variant was made without it"):
        static.score(["a"], ["b"])


def test_early_stopping_may_be_fixed_as_well() -> None:
    early = DECODE.model_copy(update={"early_stopping": True})
    require_fixed(early, 3, 0.6, 1, early.controls)
    with pytest.raises(RequestError, match=r"no early stopping is asked for; .* has a patience of 1,"):
        require_fixed(early, 3, 0.6, 1, NO_CONTROLS)
    with pytest.raises(RequestError, match="has no controls"):
        require_fixed(DECODE, 3, 0.6, 1, SearchControls(repetition_penalty=2.0))


def test_a_server_answers_with_it_and_refuses_what_is_fixed(bundle: Bundle, static: Translator) -> None:
    with running(bundle) as server, Client(f"localhost:{server.port}") as client:
        assert client.translate(["a house"])[0][0].text == static.translate(["a house"])[0][0].text
        with pytest.raises(RequestError, match=r"options\.beam_size: 2 is asked for"):
            client.translate(["a house"], TranslateOptions(beam_size=2))


def test_nothing_is_made_around_it(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the default variant of .*, 'static', has its decoding options fixed") as one:
        write_triton(bundle, tmp_path / "models")
    assert str(one.value.help).endswith("--default: cpu-float32")
    assert not (tmp_path / "models").exists()


def test_a_benchmark_leaves_it_out_where_more_is_asked_for(bundle: Bundle) -> None:
    plan = Plan(("cpu-float32", "static"), (1,), (2,), 0.05, TranslateOptions(beam_size=2))
    report = benchmark(bundle, SENTENCES, plan)
    assert [one.variant for one in report.speeds] == ["cpu-float32"]
    assert "beam_size: 2 is asked for; the search of this variant has 3" in str(report.footprints[1].failed)
    with pytest.raises(RequestError, match="beam_size: 2 is asked for"):
        benchmark(bundle, SENTENCES, replace(plan, variants=("static",)))


def test_what_a_variant_has_fixed_survives_the_disk(bundle: Bundle) -> None:
    assert load_bundle(bundle.directory).variant("static").fixed == DECODE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "static"}, "`fixed` is there if the layout is static"),
        ({"fixed": DECODE}, "`fixed` is there if the layout is static"),
        ({"target": "tensorrt"}, "`profile` is there if the target is tensorrt"),
        ({"target": "tensorrt", "profile": {"ids": [[1, 9, 8]]}}, "1, 9, 8: an axis needs"),
    ],
)
def test_a_variant_that_lacks_something_is_no_variant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Variant(**{"file": "g", "target": "cpu", "precision": "float32", **changes})
