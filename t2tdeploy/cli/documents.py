"""`translate --document`: running text in, running text out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from t2tdeploy.cli.lines import read_text
from t2tdeploy.files import written_file

if TYPE_CHECKING:
    from t2tdeploy.decoding import TranslateOptions
    from t2tdeploy.documents import TranslatedPart
    from t2tdeploy.serving.client import Client


def translate_document(
    document_file: Path,
    output_file: Path | None,
    asked: TranslateOptions,
    *,
    language: str,
    bundle_dir: Path | None,
    variant: str | None,
    connect: Callable[[], Client],
    timeout: float | None,
    as_json: bool,
) -> None:
    """Writes the translation of a document as it comes, or, with `as_json`, a line of JSON for each sentence.

    Args:
        connect: to the server, if there is no `bundle_dir`.
    """
    from t2tdeploy.documents import rejoin

    document = read_text(document_file)
    if bundle_dir is not None:
        from t2tdeploy import document_translation
        from t2tdeploy.api import load_translator

        translator = load_translator(bundle_dir, variant=variant)
        found = document_translation.translate_document(translator, document, asked, language=language)
        _write(output_file, _records(found) if as_json else rejoin(document, found))
        return
    with (
        connect() as client,
        closing(client.translate_document(document, asked, language=language, timeout=timeout)) as found,
    ):
        _write(output_file, _records(found) if as_json else rejoin(document, found))


def _records(found: Iterable[TranslatedPart]) -> Iterator[str]:
    for one in found:
        record = {
            "source": one.part.text,
            "start": one.part.start,
            "end": one.part.end,
            "hypotheses": [{"text": each.text, "score": each.score} for each in one.hypotheses],
        }
        yield json.dumps(record, ensure_ascii=False) + "\n"


def _write(path: Path | None, texts: Iterable[str]) -> None:
    """To standard output as they come; or to a file, which appears when it is whole. A pipe or device is written to."""
    if path is None:
        for text in texts:
            sys.stdout.write(text)
            sys.stdout.flush()
    else:
        with written_file(path) as place, place.open("w", encoding="utf-8", newline="") as stream:
            stream.writelines(texts)
