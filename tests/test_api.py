"""The Python API on a real exported bundle: t2tdeploy.load, decode options, scores, threads."""

from __future__ import annotations

import json
import math
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import t2tdeploy
from t2tdeploy.bundle import DecodeDefaults, load_bundle, write_bundle
from t2tdeploy.errors import InputError, RequestError, UnknownNameError
from t2tdeploy.features import PAD_ID
from t2tdeploy.serving.client import Client, ClientOptions
from t2tdeploy.serving.messages import write_request
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from t2tdeploy.tokenizer import ByteTokenizer
from t2tdeploy.translator import BLANK, TranslateOptions, Translator
from tests.export.graphs import byte_graph
from tests.serving.running import running
from tests.serving.toy_bundle import toy_files, toy_manifest, write_toy_bundle

SOURCES = ["ab", "", "Käse", "two dogs"]
PAIRS = ClientOptions(sentences_per_request=2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "bytes"
    decode = DecodeDefaults(beam_size=4, alpha=0.6, extra_length=6, max_source_length=40)
    manifest = toy_manifest(name="bytes").model_copy(update={"decode": decode})
    graph = {"model.onnx": byte_graph().SerializeToString()}
    write_bundle(path, manifest, {**toy_files(), **graph})
    return path


@pytest.fixture(scope="module")
def bundle(directory: Path) -> Translator:
    return t2tdeploy.load(directory, threads=1)


def test_options_are_keywords(bundle: Translator) -> None:
    several = bundle.translate(SOURCES, beam_size=3, num_hypotheses=2)
    assert [len(each) for each in several] == [2, 1, 2, 2]
    assert several[1] == [*BLANK]
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
        ({"beam_size": 2.5}, "options.beam_size: 2.5 is not a whole number"),
        ({"beam_size": "4"}, "options.beam_size: '4' is not a whole number"),
        ({"suppress": "ab"}, "options.suppress: one string"),
        ({"suppress": ("<0x41>",) * 1001}, "options.suppress: 1001 pieces, at most 1000"),
        ({"temperature": 1e-50}, "options.temperature: 1e-50 is neither 0 nor"),
        ({"temperature": 1.0, "alternatives": True}, "options.alternatives: samples"),
        ({"patience": 0.0}, "options.patience: 0.0 is not between 0.01 and 100"),
        ({"patience": 2.0, "early_stopping": False}, "options.patience: 2 without early stopping"),
        ({"min_length": 10, "max_length": 3}, "options.min_length: 10 is more than max_length = 3"),
    ],
)
def test_options_out_of_range_are_named(bundle: Translator, options: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        bundle.translate(["a"], **options)


def test_lengths_keep_their_limits(bundle: Translator) -> None:
    for hypotheses in bundle.translate(SOURCES, max_length=3, num_hypotheses=4):
        assert all(one.tokens <= 3 for one in hypotheses)
    for source, hypotheses in zip(SOURCES, bundle.translate(SOURCES, min_ratio=1.5), strict=True):
        assert not source or hypotheses[0].tokens >= 1.5 * (len(source.encode()) + 1)
    for source, hypotheses in zip(SOURCES, bundle.translate(SOURCES, max_ratio=1.5), strict=True):
        assert not source or hypotheses[0].tokens <= 1.5 * (len(source.encode()) + 1)


def test_early_stopping_is_a_bundles_default_or_a_requests_wish(
    directory: Path, bundle: Translator, tmp_path: Path
) -> None:
    manifest = load_bundle(directory).manifest
    decode = manifest.decode.model_copy(update={"early_stopping": True})
    early = write_bundle(
        tmp_path / "early",
        manifest.model_copy(update={"decode": decode}),
        {name: directory / name for name in load_bundle(directory).files()},
    )
    by_default = Translator(early, threads=1)
    kept = ("<0x61>", "<0x62>", "</s>")  # of few pieces and with this alpha, translations end and are better if longer
    others = tuple({*ByteTokenizer().pieces(range(ByteTokenizer.vocab_size))}.difference(kept))
    options = {"suppress": others, "alpha": 5.0}
    wished = bundle.translate(SOURCES, early_stopping=True, **options)
    assert wished == bundle.translate(SOURCES, patience=1.0, **options) == by_default.translate(SOURCES, **options)
    exact = bundle.translate(SOURCES, **options)
    assert wished != exact == by_default.translate(SOURCES, early_stopping=False, **options)
    samples = {"temperature": 1.0, "num_hypotheses": 3, "seed": 1}
    assert by_default.translate(SOURCES, **samples) == bundle.translate(SOURCES, **samples, patience=0.3)


def test_a_prefix_starts_the_translation(bundle: Translator) -> None:
    prefixes = ["xy", "", "", "z"]
    for prefix, hypotheses in zip(prefixes, bundle.translate(SOURCES, target_prefixes=prefixes), strict=True):
        assert hypotheses[0].text.startswith(prefix)
    with pytest.raises(RequestError, match="target_prefixes: 1 for 4 sources"):
        bundle.translate(SOURCES, target_prefixes=["x"])


def test_a_beam_of_one_is_greedy(bundle: Translator) -> None:
    (found,) = bundle.translate(["ab"], beam_size=1, return_tokens=True)
    prefix: list[str] = []
    for token in found[0].details:
        every = bundle.translate(["ab"], beam_size=1, max_length=len(prefix) + 1, return_tokens=True)
        assert [one.piece for one in every[0][0].details] == [*prefix, token.piece]
        prefix.append(token.piece)


def test_a_source_for_which_nothing_is_allowed_has_an_empty_translation(bundle: Translator) -> None:
    (found,) = bundle.translate(["ab"], no_repeat_ngram_size=1, min_length=300, max_length=300, extra_length=600)
    assert [(one.text, one.tokens, one.finished) for one in found] == [("", 0, False)]
    assert math.isfinite(found[0].score)


def test_what_a_caller_does_with_an_answer_changes_no_other(bundle: Translator) -> None:
    forbidden = {"no_repeat_ngram_size": 1, "min_length": 300, "max_length": 300, "extra_length": 600}
    for source, options in (("", {}), ("ab", forbidden), ("ab", {**forbidden, "alternatives": True})):
        before = bundle.translate([source], **options)
        (found,) = bundle.translate([source], **options)
        found.clear()
        assert bundle.translate([source], **options) == before
        assert [len(one) for one in before] == [1]


def test_alternatives_keep_the_limits_of_lengths(bundle: Translator) -> None:
    prefixes = ["", "", "", "xyz"]
    for options in ({"max_length": 1}, {"max_length": 3}, {"max_length": 1, "min_length": 1}):
        alternatives = bundle.translate(
            SOURCES, target_prefixes=prefixes, num_hypotheses=4, alternatives=True, **options
        )
        for prefix, hypotheses in zip(prefixes, alternatives, strict=True):
            assert all(one.tokens <= max(options["max_length"], len(prefix) + 1) for one in hypotheses)


def test_no_alternative_is_one_empty_translation(bundle: Translator) -> None:
    everything = tuple(ByteTokenizer().pieces(range(ByteTokenizer.vocab_size)))
    for options in ({}, {"alternatives": True, "num_hypotheses": 2}):
        (found,) = bundle.translate(["ab"], suppress=everything, **options)
        assert [(one.text, one.tokens, one.finished) for one in found] == [("", 0, False)]


def test_alternatives_that_lead_to_nothing_are_none(bundle: Translator) -> None:
    forbidden = {"no_repeat_ngram_size": 1, "min_length": 300, "max_length": 300, "extra_length": 600}
    (found,) = bundle.translate(["ab"], alternatives=True, num_hypotheses=3, **forbidden)
    assert [(one.text, one.tokens, one.finished) for one in found] == [("", 0, False)]


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


def test_without_a_seed_every_sample_is_another(bundle: Translator) -> None:
    options = {"temperature": 1.0, "num_hypotheses": 2, "max_length": 12}
    found = bundle.translate(["ab"] * 5, **options) + bundle.translate(["ab"], **options)
    assert len({tuple(one.text for one in each) for each in found}) == 6
    with_seed = bundle.translate(["ab"] * 5, seed=3, **options)
    assert all(each == with_seed[0] for each in with_seed)


def test_samples_are_never_padding(bundle: Translator) -> None:
    """Whoever reads ids ends at the first PAD."""
    found = bundle.translate(["ab"] * 20, temperature=100.0, num_hypotheses=16)
    drawn = [token for each in found for one in each for token in one.ids]
    assert len(drawn) > 1000
    assert PAD_ID not in drawn


def test_unknown_words_of_ids_cannot_be_replaced(bundle: Translator) -> None:
    ids = bundle.encode(["ab"])[0].ids
    assert bundle.translate([ids]) == bundle.translate(["ab"])
    with pytest.raises(RequestError, match=r"options.replace_unknown: ids have no text to take it from"):
        bundle.translate([ids], replace_unknown=True)


def test_scores_are_those_of_the_search(bundle: Translator) -> None:
    """Of letters alone, so that the text of a hypothesis has its tokens."""
    letters = {f"<0x{ord(letter):02X}>" for letter in string.ascii_letters}
    others = tuple(piece for piece in ByteTokenizer().pieces(range(ByteTokenizer.vocab_size)) if piece not in letters)
    sources = ["ab", "Käse"]
    found = [each[0] for each in bundle.translate(sources, suppress=others, return_tokens=True)]
    for hypothesis, score in zip(found, bundle.score(sources, [one.text for one in found]), strict=True):
        assert {token.piece for token in hypothesis.details} <= letters
        assert [token.piece for token in score.tokens[:-1]] == [token.piece for token in hypothesis.details]
        expected = [token.score for token in hypothesis.details]
        assert [token.score for token in score.tokens[:-1]] == pytest.approx(expected, abs=1e-4)
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


EVERYTHING = TranslateOptions(
    beam_size=3,
    num_hypotheses=2,
    max_length=9,
    min_ratio=0.5,
    repetition_penalty=1.3,
    no_repeat_ngram_size=2,
    coverage_penalty=0.2,
    suppress=("<0x41>", "<0x42>"),
    suppress_unknown=True,
    return_attention=True,
    replace_unknown=True,
)


@pytest.mark.parametrize(
    "options",
    [EVERYTHING, TranslateOptions(temperature=0.9, top_k=20, top_p=0.9, seed=5, num_hypotheses=3), TranslateOptions()],
)
def test_a_served_answer_is_the_local_one(bundle: Translator, directory: Path, options: TranslateOptions) -> None:
    prefixes = ["x", "", "", "yz"]
    expected = bundle.translate(SOURCES, options, target_prefixes=prefixes)
    with running(load_bundle(directory)) as server, Client(f"127.0.0.1:{server.port}", PAIRS) as client:
        found = client.translate(SOURCES, options, target_prefixes=prefixes)
        with pytest.raises(RequestError, match=r"target_prefixes\[3\]: 41 tokens"):
            client.translate(SOURCES, options, target_prefixes=["", "", "", "x" * 40])
    for one, other in zip(found, expected, strict=True):
        assert [hypothesis.text for hypothesis in one] == [hypothesis.text for hypothesis in other]
        for mine, theirs in zip(one, other, strict=True):
            assert mine.score == pytest.approx(theirs.score, abs=1e-4)
            assert [token.piece for token in mine.details] == [token.piece for token in theirs.details]
            for token, same in zip(mine.details, theirs.details, strict=True):
                assert token.attention == pytest.approx(same.attention, abs=1e-4)


def test_an_answer_too_large_for_a_server_is_refused(directory: Path) -> None:
    """In one request; `Client` asks for fewer sources at once."""
    options = TranslateOptions(return_attention=True, beam_size=16, num_hypotheses=16, extra_length=256)
    with (
        running(load_bundle(directory)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        pytest.raises(grpc.RpcError, match=r"options\.return_attention: up to"),
    ):
        TranslationServiceStub(channel).Translate(write_request("", ["x" * 39] * 32, options), timeout=60)


MANIFEST = "{bundle}/manifest.json"  # a file of lines


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "t2tdeploy", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_the_command_line_translates_and_scores_with_a_bundle(
    bundle: Translator, directory: Path, tmp_path: Path
) -> None:
    done = command("translate", "--bundle", str(directory), "--max-length", "4", "--return-tokens", "--json", "ab")
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(line) for line in done.stdout.splitlines()]
    expected = bundle.translate(["ab"], max_length=4, return_tokens=True)[0][0]
    assert [token["piece"] for token in record["hypotheses"][0]["details"]] == [one.piece for one in expected.details]
    (tmp_path / "source").write_text("ab\nKäse\n")
    (tmp_path / "target").write_text("xyz\nq\n")
    pair = ["--source", str(tmp_path / "source"), "--target", str(tmp_path / "target")]
    done = command("score", "--bundle", str(directory), *pair)
    assert done.returncode == 0, done.stderr
    scores = bundle.score(["ab", "Käse"], ["xyz", "q"])
    assert done.stdout == "".join(f"{one.log_prob:.4f}\t{len(one.tokens)}\n" for one in scores)
    assert "2 pairs, 6 tokens, perplexity" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["translate", "ab"], "--server or --bundle: give one of them"),
        (["translate", "--bundle", "{bundle}", "--return-tokens", "ab"], "--return-tokens needs --json"),
        (["translate", "--bundle", "{bundle}", "--top-k", "5", "ab"], "--top-k is of samples: give --temperature"),
        (["translate", "--bundle", "{bundle}", "--model", "m", "ab"], "--model is for a server"),
        (["translate", "--server", "localhost:1", "--variant", "v", "ab"], "--variant is for a bundle"),
        (["classify", "--server", "localhost:1", "--variant", "v", "ab"], "--variant is for a bundle"),
        (["translate", "--bundle", "{bundle}", "--variant", "cpu-floa", "ab"], "did you mean 'cpu-float32'?"),
        (
            ["score", "--bundle", "{bundle}", "--variant", "no", *("--source", MANIFEST), *("--target", MANIFEST)],
            "unknown variant 'no'",
        ),
        (["translate", "--bundle", "{bundle}", "--target-prefix", "a", "--target-prefixes", "f", "ab"], "choose one"),
        (
            ["translate", "--bundle", "{bundle}", "--temperature", "-1", "ab"],
            "options.temperature: -1.0 is not between",
        ),
    ],
)
def test_mistakes_at_the_command_line_exit_with_2(directory: Path, arguments: list[str], words: str) -> None:
    done = command(*(argument.format(bundle=directory) for argument in arguments))
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
