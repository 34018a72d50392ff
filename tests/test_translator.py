import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import CorruptFileError, RequestError, UnreadableError
from t2tdeploy.translator import BLANK, BUNDLE_DEFAULTS, Hypothesis, TranslateOptions, Translator
from tests.serving.toy_bundle import small_tokenizer, write_toy_bundle


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    bundle = write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy", max_source_length=40)
    return Translator(bundle, threads=1, max_batch_size=3, max_batch_tokens=600)


def test_hypotheses_carry_text_score_and_tokens(translator: Translator) -> None:
    options = TranslateOptions(beam_size=2, num_hypotheses=2, alpha=1.0, extra_length=7)
    assert translator.translate(["Käse"], options) == [
        [
            Hypothesis("Käse", -(0 + 1.0) * (6 + 7), tokens=6, finished=True),
            Hypothesis("Käse", -(1 + 1.0) * (6 + 7), tokens=6, finished=True),
        ]
    ]


@settings(max_examples=40)
@given(
    sources=st.lists(st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0x2FF), max_size=19), max_size=12)
)
def test_the_answer_to_a_source_does_not_depend_on_the_others(translator: Translator, sources: list[str]) -> None:
    alone = [translator.translate([source])[0] for source in sources]
    assert translator.translate(sources) == alone


@pytest.mark.parametrize("source", ["", " ", "\t\n", "\u3000"])
def test_a_blank_source_gives_one_empty_text(translator: Translator, source: str) -> None:
    answers = translator.translate(["a", source, "b"], TranslateOptions(num_hypotheses=2))
    assert answers[1] == [*BLANK]
    assert [len(hypotheses) for hypotheses in answers] == [2, 1, 2]


def test_a_long_source_is_refused_or_cut(translator: Translator) -> None:
    fits, long = "x" * 39, "x" * 40
    with pytest.raises(RequestError, match=r"sources\[1\]: 41 tokens, the model takes 40"):
        translator.translate([fits, long])
    assert translator.translate([long], TranslateOptions(truncate=True)) == translator.translate([fits])
    assert translator.encode([long], truncate=True)[0].truncated
    assert not translator.encode([fits], truncate=True)[0].truncated


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (TranslateOptions(beam_size=0), "beam_size"),
        (TranslateOptions(beam_size=17), "beam_size"),
        (TranslateOptions(alpha=-0.1), "alpha"),
        (TranslateOptions(alpha=float("nan")), "alpha"),
        (TranslateOptions(num_hypotheses=0), "num_hypotheses"),
        (TranslateOptions(num_hypotheses=5), "num_hypotheses"),
        (TranslateOptions(extra_length=0), "extra_length"),
        (TranslateOptions(extra_length=1001), "extra_length"),
    ],
)
def test_an_option_out_of_range_is_named(translator: Translator, options: TranslateOptions, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        translator.translate(["a"], options)
    assert caught.value.field == f"options.{field}"


def test_options_that_cannot_share_a_batch_have_different_keys(translator: Translator) -> None:
    asked = [
        TranslateOptions(),
        TranslateOptions(beam_size=2),
        TranslateOptions(alpha=1.0),
        TranslateOptions(num_hypotheses=2),
        TranslateOptions(extra_length=5),
    ]
    assert len({translator.search_key(options) for options in asked}) == len(asked)
    assert translator.search_key(TranslateOptions(extra_length=50)) == translator.search_key(TranslateOptions())
    assert translator.search_key(BUNDLE_DEFAULTS) == translator.search_key(TranslateOptions()), "the one is remembered"


def test_many_batches_translate_as_few_do(translator: Translator) -> None:
    """With threads to share, many batches run two at once; what comes out, and in which order, is the same."""
    sources = [chr(97 + place % 26) * (1 + place * 7 % 30) for place in range(40)]
    two = Translator(translator.bundle, threads=2, max_batch_size=3, max_batch_tokens=600)
    key, sentences = two.search_key(BUNDLE_DEFAULTS), two.encode(sources)
    assert [indices for indices, _ in two.search_batches(sentences, key)] == list(two.batches(sentences, key))
    assert two.translate(sources) == translator.translate(sources)
    assert two._beside is not None
    assert two._beside.session.threads == 1


@pytest.mark.parametrize("what", ["gone", "another"])
def test_many_batches_are_translated_by_what_was_loaded(
    translator: Translator, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if a second session would read another graph by then, or none; it is said why that is slower."""
    sources = [chr(97 + place % 26) * (1 + place * 7 % 30) for place in range(40)]
    place = tmp_path / "bundle"
    two = Translator(write_toy_bundle(place, max_source_length=40), threads=2, max_batch_size=3)
    shutil.rmtree(place)
    if what == "another":
        write_toy_bundle(place, max_source_length=40, steps=3)
    assert two.translate(sources) == translator.translate(sources)
    assert two._beside is None
    assert two.translate(sources) == translator.translate(sources)
    (said,) = caplog.messages
    assert said.startswith("translating one batch at a time, not two at once: ")


def test_batches_are_not_searched_far_ahead(translator: Translator) -> None:
    """Of whoever takes the answers slowly, few are kept."""
    searched: list[int] = []

    class Counted(Translator):
        def search(self, *arguments: Any, **options: Any) -> list[list[Hypothesis]]:
            searched.append(1)
            return super().search(*arguments, **options)

    two = Counted(translator.bundle, threads=2, max_batch_size=1)
    found = two.search_batches(two.encode(["a source"] * 40), two.search_key(BUNDLE_DEFAULTS))
    for taken in range(1, 20):
        next(found)
        time.sleep(0.01)
        assert len(searched) <= taken + 3
    assert len([*found]) == 21


def test_batches_that_nobody_wants_are_not_searched(translator: Translator) -> None:
    class Counted(Translator):
        def search(self, *arguments: Any, **options: Any) -> list[list[Hypothesis]]:
            searched.append(1)
            return super().search(*arguments, **options)

    searched: list[int] = []
    two = Counted(translator.bundle, threads=2, max_batch_size=1)
    batches = two.search_batches(two.encode(["a long enough source"] * 200), two.search_key(BUNDLE_DEFAULTS))
    next(batches)
    batches.close()
    assert len(searched) < 200


def test_another_number_of_threads_translates_the_same(translator: Translator) -> None:
    sources = ["ab", "", "a longer one", "ba" * 15]
    other = translator.with_threads(2)
    assert (translator.session.threads, other.session.threads) == (1, 2)
    assert other.translate(sources, num_hypotheses=2) == translator.translate(sources, num_hypotheses=2)


def test_a_graph_that_cannot_be_read_any_more_is_not_called_damaged(tmp_path: Path) -> None:
    translator = Translator(write_toy_bundle(tmp_path / "toy"), threads=1)
    graph = translator.bundle.path()
    graph.unlink()
    graph.symlink_to(graph.name)
    with pytest.raises(UnreadableError, match=r"model\.onnx cannot be read: Too many levels of symbolic links"):
        translator.with_threads(2)


def test_a_beam_is_at_most_half_the_target_vocabulary(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "small", tokenizer=small_tokenizer())
    half = bundle.tokenizer("targets").vocab_size // 2
    translator = Translator(bundle, threads=1)
    assert translator.translate(["ab"], TranslateOptions(beam_size=half))
    with pytest.raises(RequestError, match=f"options.beam_size: {half + 1} .*vocabulary"):
        translator.translate(["ab"], TranslateOptions(beam_size=half + 1))


def test_a_bundle_whose_own_beam_does_not_fit_is_refused(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "small", tokenizer=small_tokenizer(), beam_size=16)
    with pytest.raises(CorruptFileError, match=r"manifest.json is damaged: decode.beam_size = 16 .*vocabulary"):
        Translator(bundle, threads=1)


def test_a_lone_surrogate_is_named(translator: Translator) -> None:
    with pytest.raises(RequestError, match=r"sources\[1\].*surrogate at character 2"):
        translator.translate(["a", "ab\ud800"])
