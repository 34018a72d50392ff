"""Documents through a `Translator`: the splitting that suits its model, and translation on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from t2tdeploy.decoding import BUNDLE_DEFAULTS, TranslateOptions
from t2tdeploy.documents import Part, TranslatedPart, split_document
from t2tdeploy.sentences import require_unicode
from t2tdeploy.translator import Translator

_CHUNK = 256
"""Sentences that are translated together."""


def split_for(
    translator: Translator, document: str, *, language: str = "", longest: int | None = None
) -> Iterator[Part]:
    """The sentences of `document`, none longer than the model takes, see documents.py; found as they are asked for.

    Args:
        language: of the document, as in "de"; empty: general rules.
        longest: tokens of the longest part, EOS included, if less than the model takes.

    Raises:
        RequestError: it is no Unicode text.
        OperationalError: sentencex is not installed.
    """
    require_unicode("document", document)
    limit = min(translator.defaults.max_source_length, longest or translator.defaults.max_source_length)
    return split_document(document, count=translator.count_source_tokens, limit=limit, language=language)


def translate_document(
    translator: Translator, document: str, options: TranslateOptions = BUNDLE_DEFAULTS, *, language: str = ""
) -> Iterator[TranslatedPart]:
    """The sentences of `document` with their hypotheses, in order, a few hundred at a time.

    `documents.rejoin` makes a document of them; the server answers the same.

    Args:
        options: `truncate` means nothing here.
        language: of the document, as in "de"; empty: general rules.

    Raises:
        RequestError: an option is out of range, or the document is no Unicode text.
        OperationalError: sentencex is not installed.
    """
    translator.search_key(options)
    parts = split_for(translator, document, language=language)
    return _translated(translator, parts, replace(options, truncate=True))


def _translated(translator: Translator, parts: Iterator[Part], options: TranslateOptions) -> Iterator[TranslatedPart]:
    while chunk := list(islice(parts, _CHUNK)):
        found = translator.translate([part.text for part in chunk], options)
        yield from map(TranslatedPart, chunk, found)
