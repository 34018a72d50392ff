"""Parameters become options, and hypotheses become tensors."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.decoding import LengthLimits, SearchKey, TranslateOptions
from t2tdeploy.errors import RequestError, TooLargeError
from t2tdeploy.hypotheses import Hypothesis, Token
from t2tdeploy.sentences import Sentence
from t2tdeploy.serving.frontend import Translated
from t2tdeploy.serving.inference.calls import InferRequest
from t2tdeploy.serving.inference.tensors import InferInput
from t2tdeploy.serving.inference.translation import TranslationInterface, read_option
from t2tdeploy.serving.scheduler import Answer

INTERFACE = TranslationInterface()
WIDTH = 3


def request(outputs: tuple[str, ...] = (), **parameters) -> InferRequest:
    sources = InferInput("sources", "BYTES", (2,), [b"a", b"b"])
    return InferRequest("m", "", "", parameters, {"sources": sources}, outputs)


@st.composite
def answers(draw) -> Translated:
    """An answer with the tokens and attention of every hypothesis, as many and as long as they happen to be."""
    scores = st.floats(-100, 0, width=32)
    sentences, hypotheses = [], []
    for _ in range(draw(st.integers(1, 4))):
        sentences.append(Sentence([*draw(st.lists(st.integers(3, 99), max_size=4)), 1], draw(st.booleans())))
        row = []
        for _ in range(draw(st.integers(1, WIDTH))):
            ids = (*draw(st.lists(st.integers(3, 99), max_size=5)), 1)
            looks = draw(st.tuples(*[st.floats(0, 1, width=32)] * len(sentences[-1].ids)))
            details = tuple(Token(str(one), draw(scores), looks) for one in ids)
            row.append(Hypothesis(str(ids), draw(scores), len(ids), draw(st.booleans()), details, ids))
        hypotheses.append(row)
    key = SearchKey(WIDTH, 0.6, WIDTH, LengthLimits(5), tokens=True, attention=True)
    return Translated(None, sentences, key, Answer(hypotheses, 0.0, 0.0))  # type: ignore[arg-type]


@settings(max_examples=60)
@given(answers())
def test_every_hypothesis_is_in_its_place_and_the_rest_is_padding(answer: Translated) -> None:
    names = tuple(spec.name for spec in INTERFACE.outputs)
    tensors = {one.name: one.values for one in INTERFACE.encode(request(names), answer)}
    assert tuple(tensors) == names
    for row, (sentence, found) in enumerate(zip(answer.sentences, answer.answer.results, strict=True)):
        assert tensors["truncated"][row] == sentence.truncated
        assert tensors["finished"][row] == all(one.finished for one in found)
        for column in range(WIDTH):
            at = row, column
            if column >= len(found):
                assert (tensors["texts"][at], tensors["lengths"][at], tensors["scores"][at]) == (b"", 0, -np.inf)
                assert not tensors["target_ids"][at].any()
                assert not tensors["attention"][at].any()
                continue
            one = found[column]
            assert tensors["texts"][at].decode() == one.text
            assert (tensors["scores"][at], tensors["lengths"][at]) == (one.score, one.tokens)
            assert tuple(tensors["target_ids"][at][: one.tokens]) == one.ids
            assert not tensors["target_ids"][at][one.tokens :].any()
            assert tensors["token_scores"][at][: one.tokens].tolist() == [token.score for token in one.details]
            looks = tensors["attention"][at][: one.tokens, : len(sentence.ids)]
            assert [tuple(look) for look in looks.tolist()] == [token.attention for token in one.details]


@pytest.mark.parametrize(
    ("outputs", "parameters", "expected"),
    [
        ((), {}, "texts scores lengths finished truncated"),
        ((), {"return_tokens": True}, "texts scores lengths finished truncated target_ids token_scores"),
        ((), {"return_attention": True}, "texts scores lengths finished truncated target_ids token_scores attention"),
        ((), {"return_tokens": "TRUE"}, "texts scores lengths finished truncated target_ids token_scores"),
        ((), {"return_tokens": "false", "return_attention": "False"}, "texts scores lengths finished truncated"),
        (("attention", "texts"), {"return_tokens": True}, "attention texts"),
    ],
)
def test_outputs_are_those_asked_for_by_name_or_by_option(outputs, parameters, expected: str) -> None:
    asked = request(outputs, **parameters)
    options = INTERFACE.decode(asked, None, 9).options
    tokens = options.return_tokens or options.return_attention  # as SearchKeys has it

    @settings(max_examples=3)
    @given(answers())
    def check(answer: Translated) -> None:
        key = answer.key._replace(tokens=tokens, attention=options.return_attention)
        found = INTERFACE.encode(asked, replace(answer, key=key))
        assert [one.name for one in found] == expected.split()

    check()


def test_asking_for_an_output_sets_its_option() -> None:
    assert INTERFACE.decode(request(), None, 9).options == TranslateOptions()
    assert INTERFACE.decode(request(("token_scores",)), None, 9).options == TranslateOptions(return_tokens=True)
    assert INTERFACE.decode(request(("attention",)), None, 9).options == TranslateOptions(return_attention=True)


def test_padding_is_not_beyond_what_a_server_should_hold() -> None:
    """One long sentence among many short ones."""
    long = Sentence([3] * 299 + [1])
    one = Hypothesis("", 0.0, 300, True)
    key = SearchKey(16, 0.6, 16, LengthLimits(5), attention=True)
    answer = Translated(None, [long, *[Sentence([3, 1])] * 255], key, Answer([[one]] * 256, 0.0, 0.0))  # type: ignore[arg-type]
    with pytest.raises(TooLargeError, match=r"^outputs\.attention: \d+ numbers with padding, the server gives"):
        INTERFACE.encode(request(("attention",)), answer)


def test_every_option_is_a_parameter_and_can_be_written_as_text() -> None:
    given = TranslateOptions(
        beam_size=3,
        alpha=0.25,
        truncate=True,
        max_ratio=1.5,
        suppress=("\u2581Hund", "a,b"),
        seed=2**62,
        early_stopping=False,
    )
    written = {
        "beam_size": "3",
        "alpha": "0.25",
        "truncate": "true",
        "max_ratio": "1.5",
        "suppress": '["\u2581Hund", "a,b"]',
        "seed": str(2**62),
        "early_stopping": "false",
    }
    assert INTERFACE.decode(request(**written), None, 9).options == given
    assert set(INTERFACE.parameters) == {one.name for one in fields(TranslateOptions)}


@settings(max_examples=150)
@given(
    st.sampled_from(INTERFACE.parameters),
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["[]", "nan", "1e999", "9" * 5000]),
)
def test_any_parameter_is_an_option_or_refused_by_name(name: str, value: object) -> None:
    try:
        read_option(name, value)
    except RequestError as error:
        assert error.field == f"parameters.{name}"  # noqa: PT017


@pytest.mark.parametrize("parameters", [{"replace_unknown": True}])
def test_ids_have_no_text_to_replace_the_unknown_token_with(parameters: dict) -> None:
    ids = InferInput("source_ids", "INT64", (1, 2), [5, 1])
    asked = InferRequest("m", "", "", parameters, {"source_ids": ids}, ())
    with pytest.raises(RequestError, match=r"^parameters\.replace_unknown: source_ids have no text"):
        INTERFACE.decode(asked, None, 9)
