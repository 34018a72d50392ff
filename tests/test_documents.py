"""Laws of splitting documents."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import sentencex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t2tdeploy.documents import Part, TranslatedPart, rejoin, split_document
from t2tdeploy.errors import OperationalError
from t2tdeploy.hypotheses import Hypothesis

PIECES = [
    *"aAbB .,!?;:\"'()[]«»“”…。！？।؟、，—-\n\r\t\v\x00\x1c\x85\xa0\u2028\u2029\u200b\u200d\u0301\u3000\ufeff😀漢",
    *(
        "Dr.",
        "e.g. ",
        "z.B. ",
        "\r\n",
        "\n\n",
        "  ",
        "word ",
        "Ein Satz. ",
        "これはペンです。",
        "👩‍👩‍👧",
        "A\xa0.",
        "A\u2028.",
    ),
]
DOCUMENTS = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=60).map("".join)
LANGUAGES = st.sampled_from(["", "en", "de", "DE_at", "ja", "hi", "no such language", "日本"])


def characters(text: str) -> int:
    return len(text)


def uneven(text: str) -> int:
    """A tokenizer of long and short pieces: its count is no multiple of the characters."""
    return 1 + sum(3 if ord(one) > 127 else ord(one) % 2 for one in text)


def split(document: str, count: Callable[[str], int] = characters, limit: int = 12, language: str = "") -> list[Part]:
    return list(split_document(document, count=count, limit=limit, language=language))


def texts(document: str, **options: object) -> list[str]:
    return [part.text for part in split(document, **{"limit": 1000, **options})]  # type: ignore[arg-type]


@settings(max_examples=150)
@given(DOCUMENTS, LANGUAGES, st.integers(4, 30), st.sampled_from([characters, uneven]))
@example("A\xa0. B.", "fr", 30, characters)
def test_the_parts_and_the_white_space_are_the_document(
    document: str, language: str, limit: int, count: Callable[[str], int]
) -> None:
    parts = split(document, count, limit, language)
    end = parts[-1].end if parts else 0
    assert "".join(part.before + part.text for part in parts) + document[end:] == document
    assert all(document[part.start : part.end] == part.text for part in parts)
    assert all(not part.before.strip() for part in parts)
    assert not document[end:].strip()
    assert all(part.text and part.text == part.text.strip() for part in parts)
    assert all(count(part.text) <= limit for part in parts)
    assert all(len(part.text.splitlines()) == 1 for part in parts)


@settings(max_examples=100)
@given(DOCUMENTS, st.integers(4, 30))
def test_a_document_translated_into_itself_is_itself(document: str, limit: int) -> None:
    translated = [TranslatedPart(part, [Hypothesis(part.text, 0.0, 1, True)]) for part in split(document, limit=limit)]
    assert "".join(rejoin(document, translated)) == document


@pytest.mark.parametrize(
    ("language", "document", "expected"),
    [
        (
            "en",
            "Dr. Smith left on Jan. 5th. He paid $3.50!  Why?",
            ["Dr. Smith left on Jan. 5th.", "He paid $3.50!", "Why?"],
        ),
        ("de", "Er kam z.B. am 3. Januar. Und dann?", ["Er kam z.B. am 3. Januar.", "Und dann?"]),
        ("de-AT", "Die Nr. 5 lebt. Ja.", ["Die Nr. 5 lebt.", "Ja."]),
        ("ja", "これはペンです。本当？はい！", ["これはペンです。", "本当？", "はい！"]),
        ("hi", "यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("", "One line\n\n  * another line\r\n", ["One line", "* another line"]),
    ],
)
def test_sentences_are_found(language: str, document: str, expected: list[str]) -> None:
    assert texts(document, language=language) == expected


def test_what_is_too_long_is_cut_at_clauses_then_spaces_then_anywhere() -> None:
    assert texts("He came from afar, and she went away", limit=24) == ["He came from afar,", "and she went away"]
    assert texts("He came and she went away", limit=12) == ["He came and", "she went", "away"]
    assert texts("aaaaabbbbbccc", limit=5) == ["aaaaa", "bbbbb", "ccc"]
    assert texts("aaaae\u0301bbbb", limit=5) == ["aaaa", "e\u0301bbb", "b"], "an accent stays with its letter"


def test_long_lines_are_found_the_same_sentences_as_short_ones() -> None:
    sentences = [f"Sentence {number} is here." for number in range(3000)]
    assert texts(" ".join(sentences)) == sentences


@pytest.mark.parametrize("between", [" ", ", "])
def test_words_of_a_long_line_stay_whole(between: str) -> None:
    """However much of a line is looked at together."""
    words = [f"word{number:04}" for number in range(9000)]
    found = [part.text for part in split(between.join(words), limit=101)]
    assert " ".join(found).split(" ") == between.join(words).split(" ")
    assert between == " " or all(text.endswith(",") for text in found[:-1])


def test_a_megabyte_without_a_stop_is_cut_in_time_that_grows_with_it() -> None:
    asked = 0

    def count(text: str) -> int:
        nonlocal asked
        asked += len(text)
        return len(text)

    document = "word " * 50_000
    parts = split(document, count, 100)
    assert all(len(part.text) <= 100 for part in parts)
    assert asked < 100 * len(document)


def test_a_splitter_that_panics_or_loses_text_costs_nothing_but_its_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(language: str, text: str) -> list[str]:
        raise PanicException

    document = "One. Two.\n Three."
    for fault in (panic, lambda language, text: ["lost"]):
        monkeypatch.setattr(sentencex, "segment", fault)
        assert texts(document) == ["One. Two.", "Three."]


def test_without_the_splitter_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(OperationalError) as caught:
        texts("One.")
    assert "t2tdeploy[serve]" in str(caught.value.help)


def test_sentences_that_touch_are_parted_in_a_script_with_spaces() -> None:
    def translated(document: str, *translations: str) -> str:
        parts = split(document, limit=100, language="ja")
        hypotheses = [[Hypothesis(text, 0.0, 1, True)] for text in translations]
        return "".join(rejoin(document, map(TranslatedPart, parts, hypotheses)))

    document = "これはペンです。本当？\n はい！\n"
    assert translated(document, "This is a pen.", "Really?", "Yes!") == "This is a pen. Really?\n Yes!\n"
    assert translated(document, "这是一支笔。", "真的吗？", "是！") == "这是一支笔。真的吗？\n 是！\n"
