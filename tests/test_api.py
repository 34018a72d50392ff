"""The Python API on a real exported bundle: t2tdeploy.load, decode options, scores, threads."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import t2tdeploy
from t2tdeploy.bundle import DecodeDefaults
from t2tdeploy.errors import InputError, RequestError, UnknownNameError
from t2tdeploy.export.package import export_bundle
from t2tdeploy.tokenizer import ByteTokenizer
from t2tdeploy.translator import BLANK, Translator
from tests.models.tiny import tiny_transformer
from tests.serving.toy_bundle import write_toy_bundle

SOURCES = ["ab", "", "Käse", "two dogs"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = ByteTokenizer()
    path = tmp_path_factory.mktemp("bundles") / "bytes"
    export_bundle(
        tiny_transformer(tokenizer.vocab_size, seed=3),
        path,
        name="bytes",
        tokenizers={"inputs": tokenizer, "targets": tokenizer},
        decode=DecodeDefaults(beam_size=4, alpha=0.6, extra_length=6, max_source_length=40),
        sentences=["ab", "Käse"],
        provenance={},
    )
    return path


@pytest.fixture(scope="module")
def bundle(directory: Path) -> Translator:
    return t2tdeploy.load(directory, threads=1)


def test_options_are_keywords(bundle: Translator) -> None:
    several = bundle.translate(SOURCES, beam_size=3, num_hypotheses=2)
    assert [len(each) for each in several] == [2, 1, 2, 2]
    assert several[1] == BLANK
    assert bundle.translate(SOURCES) == bundle.translate(SOURCES, beam_size=4)


def test_an_unknown_option_is_answered_with_the_nearest(bundle: Translator) -> None:
    with pytest.raises(UnknownNameError, match="unknown option 'beam_sise'") as caught:
        bundle.translate(["a"], beam_sise=3)
    assert caught.value.nearest == "beam_size"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "options.temperature: -1.0 is not between"),
        ({"top_p": 0.0}, "options.top_p"),
        ({"repetition_penalty": float("nan")}, "options.repetition_penalty: nan"),
        ({"suppress": ("nothing",)}, "options.suppress: 'nothing' is no piece"),
        ({"temperature": 1.0, "beam_size": 4}, "options.beam_size: 4 with a temperature"),
        ({"max_length": 0}, "options.max_length: 0"),
        ({"seed": -1}, "options.seed: -1"),
    ],
)
def test_options_out_of_range_are_named(bundle: Translator, options: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        bundle.translate(["a"], **options)


def test_lengths_keep_their_limits(bundle: Translator) -> None:
    for hypotheses in bundle.translate(SOURCES, max_length=3, num_hypotheses=4):
        assert all(one.tokens <= 3 for one in hypotheses)
    for source, hypotheses in zip(SOURCES, bundle.translate(SOURCES, min_ratio=1.5), strict=True):
        assert not source or hypotheses[0].tokens >= math.floor(1.5 * (len(source.encode()) + 1))


def test_a_prefix_starts_the_translation(bundle: Translator) -> None:
    prefixes = ["xy", "", "", "z"]
    for prefix, hypotheses in zip(prefixes, bundle.translate(SOURCES, target_prefixes=prefixes), strict=True):
        assert hypotheses[0].text.startswith(prefix)
    with pytest.raises(RequestError, match="target_prefixes: 1 for 4 sources"):
        bundle.translate(SOURCES, target_prefixes=["x"])


def test_alternatives_go_on_differently_after_the_prefix(bundle: Translator) -> None:
    (found,) = bundle.translate(["ab"], target_prefixes=["xy"], num_hypotheses=4, alternatives=True, return_tokens=True)
    assert len(found) == 4
    assert all([token.piece for token in one.details[:2]] == ["<0x78>", "<0x79>"] for one in found)
    assert len({one.details[2].piece for one in found}) == 4


def test_a_seed_makes_samples_reproducible(bundle: Translator) -> None:
    options = {"temperature": 1.0, "num_hypotheses": 3}
    first = bundle.translate(SOURCES, seed=4, **options)
    assert bundle.translate(SOURCES, seed=4, **options) == first
    assert [bundle.translate([source], seed=4, **options)[0] for source in SOURCES] == first
    assert bundle.translate(SOURCES, seed=5, **options) != first


def test_scores_are_those_of_the_search(bundle: Translator) -> None:
    sources = ["ab", "Käse"]
    found = bundle.translate(sources, alpha=0.0, return_tokens=True, min_length=2)
    finished = [(source, each[0]) for source, each in zip(sources, found, strict=True) if each[0].finished]
    scores = bundle.score([source for source, _ in finished], [one.text for _, one in finished])
    for (_, hypothesis), score in zip(finished, scores, strict=True):
        if len(score.tokens) == hypothesis.tokens:  # bytes that are no text come back as others
            assert score.log_prob == pytest.approx(hypothesis.score, abs=1e-3)
    texts = bundle.score(["ab"], ["xyz"])[0]
    assert [token.piece for token in texts.tokens] == ["<0x78>", "<0x79>", "<0x7A>", "</s>"]
    assert texts.log_prob == pytest.approx(sum(token.score for token in texts.tokens), abs=1e-4)
    with pytest.raises(RequestError, match="targets: 2 for 1 sources"):
        bundle.score(["a"], ["b", "c"])


def test_attention_of_a_token_is_over_the_source(bundle: Translator) -> None:
    (found,) = bundle.translate(["Käse"], return_attention=True)
    source = bundle.source_pieces(bundle.encode(["Käse"])[0])
    assert source[-1] == "</s>"
    for token in found[0].details:
        assert len(token.attention) == len(source)
        assert sum(token.attention) == pytest.approx(1, abs=1e-3)


def test_threads_share_a_bundle(bundle: Translator) -> None:
    expected = [bundle.translate([source]) for source in SOURCES]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda source: bundle.translate([source]), SOURCES * 4)) == expected * 4


def test_a_graph_without_controls_says_so(tmp_path: Path) -> None:
    old = Translator(write_toy_bundle(tmp_path / "toy"), threads=1)
    for options in ({"temperature": 0.5}, {"return_tokens": True}, {"min_length": 3}, {"suppress_unknown": True}):
        with pytest.raises(RequestError, match="the graph of this model cannot do it"):
            old.translate(["a"], **options)
    with pytest.raises(RequestError, match="target_prefixes: the graph"):
        old.translate(["a"], target_prefixes=["b"])
    assert old.translate(["a"], repetition_penalty=1.0) == old.translate(["a"])


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a bundle"):
        t2tdeploy.load(tmp_path)
