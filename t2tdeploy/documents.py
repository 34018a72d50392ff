"""Documents: a text as sentences with the white space between them, and back.

Sentences are found by sentencex (Wikimedia; rules and abbreviations of some 300 languages). It only says where to cut.
What is promised here does not depend on it:

- A line break always ends a sentence; blank lines, indentation and every other white space are kept as they are.
- `before` and `text` of all parts, and what is left at the end, make up the document again, character by character.
- A part has no white space at its ends, is never empty, and has no more tokens than the model takes, unless its only
  character has: what is longer is cut, behind a comma or another mark of a clause if there is one in its second half,
  else at a space, else between two characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from t2tdeploy.errors import OperationalError
from t2tdeploy.hypotheses import Hypothesis

_LINE = re.compile("[^\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]+")  # between what str.splitlines takes for a line break
_SPACE = re.compile(r"\s")
_CLAUSE = re.compile(r"[,;:،؛](?=\s)|[、，；：]|\s[-–—](?=\s)")
_BLOCK = 16_384
"""Characters of a line that are looked at together: the time that one look takes is bounded, however long the line."""

_WINDOW = 16
"""Characters for each token that the model takes: so much text is never one part, whatever the tokenizer says."""


@dataclass(frozen=True)
class Part:
    """A sentence of a document, or a piece of one that is too long.

    Args:
        before: the white space between it and the part before.
        start, end: where it is in the document, in characters.
    """

    before: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class TranslatedPart:
    """A part and its translations, best first."""

    part: Part
    hypotheses: Sequence[Hypothesis]


def split_document(document: str, *, count: Callable[[str], int], limit: int, language: str = "") -> Iterator[Part]:
    """The parts of `document`, one by one.

    Args:
        count: the tokens of a text, as a model sees it.
        limit: tokens of the longest part.
        language: of the document, as in "de" or "de-AT", for its abbreviations and marks; unknown or empty: general
            rules.

    Raises:
        OperationalError: sentencex is not installed.
    """
    segment, end = _segmenter(language), 0
    for line in _LINE.finditer(document):
        for start, stop in _sentences(document, line.start(), line.end(), segment):
            for first, last in _pieces(document, start, stop, count, limit):
                yield Part(document[end:first], document[first:last], first, last)
                end = last


def rejoin(document: str, translated: Iterable[TranslatedPart]) -> Iterator[str]:
    """The translated document, piece by piece as its parts come, with the white space of the document.

    Where sentences touch, as in Chinese or Japanese, and their translations are in a script that puts spaces between
    sentences, there is one space.
    """
    end, previous = 0, ""
    for one in translated:
        text = one.hypotheses[0].text
        touching = end > 0 and not one.part.before
        yield " " if touching and _wide(document[end - 1]) and _spaced(previous) and _spaced(text) else one.part.before
        yield text
        end, previous = one.part.end, text
    yield document[end:]


def _wide(character: str) -> bool:
    """Of a script that has no spaces between sentences."""
    return unicodedata.east_asian_width(character) in "WF"


def _spaced(text: str) -> bool:
    return bool(text) and not _wide(text[0]) and not _wide(text[-1])


def _segmenter(language: str) -> Callable[[str], list[str]]:
    try:
        import sentencex
    except ImportError as error:
        raise OperationalError(
            f"sentencex cannot be imported: {error}", help="install it with: pip install 't2tdeploy[serve]'"
        ) from error
    code = language.lower().replace("_", "-").partition("-")[0]

    def segment(text: str) -> list[str]:
        # Only where it cuts matters; it is shown plain spaces, because a letter before a wide one and a full stop
        # makes it panic.
        plain = _SPACE.sub(" ", text)
        try:
            found: list[str] = sentencex.segment(code, plain)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the native code; no Exception
                raise
            return [text]
        return found if "".join(found) == plain else [text]

    return segment


def _sentences(document: str, start: int, stop: int, segment: Callable[[str], list[str]]) -> Iterator[tuple[int, int]]:
    """Where the sentences of a line are, white space at their ends left out."""
    while start < stop:
        block = document[start : min(stop, start + _BLOCK)]
        found = segment(block)
        if start + len(block) < stop:  # perhaps the last one goes on: it is looked at again, with what follows
            found = found[:-1] or [block[: _cut(block)]]
        for one in found:
            if trimmed := _trimmed(document, start, start + len(one)):
                yield trimmed
            start += len(one)


def _pieces(document: str, start: int, stop: int, count: Callable[[str], int], limit: int) -> Iterator[tuple[int, int]]:
    """Where the pieces of a sentence are that have at most `limit` tokens."""
    while True:
        size = _fitting(document[start : min(stop, start + limit * _WINDOW)], count, limit)
        if start + size >= stop:
            yield start, stop
            return
        cut = start + _cut(document[start : start + size + 1])
        if piece := _trimmed(document, start, cut):
            yield piece
        rest = _trimmed(document, cut, stop)
        if rest is None:
            return
        start, stop = rest


def _fitting(text: str, count: Callable[[str], int], limit: int) -> int:
    """So many characters of `text` have at most `limit` tokens; at least 1."""
    size = len(text)
    while size > 1 and (tokens := count(text[:size])) > limit:
        size = max(1, min(size - 1, size * limit // tokens))
    return size


def _cut(text: str) -> int:
    """Where to cut `text` before its last character at the latest."""
    size = len(text) - 1
    clauses = [match.end() for match in _CLAUSE.finditer(text) if size // 2 <= match.end() <= size]
    if clauses:
        return clauses[-1]
    spaces = [match.start() for match in _SPACE.finditer(text, 1)]
    if spaces:
        return spaces[-1]
    cut = size
    while cut > max(1, size - 8) and (unicodedata.category(text[cut])[0] == "M" or "\u200d" in text[cut - 1 : cut + 1]):
        cut -= 1  # accents and joined emoji stay together
    return cut


def _trimmed(document: str, start: int, stop: int) -> tuple[int, int] | None:
    """Without white space at its ends; None: there is nothing else."""
    text = document[start:stop]
    if not (content := text.strip()):
        return None
    first = start + len(text) - len(text.lstrip())
    return first, first + len(content)
