"""Sentences in and translations out: files, pipes, JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from t2tdeploy.errors import InputError, OperationalError
from t2tdeploy.files import reading, require_writable, written_file


def read_lines(path: Path | None) -> list[str]:
    """The lines of a file, or of standard input. Only a newline ends a line, so a sentence may hold any other one.

    Raises:
        InputError: as for `read_text`.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines


def read_text(path: Path | None) -> str:
    """The content of a file, or of standard input (None, or "-"), without a byte order mark.

    Raises:
        InputError: as for `read_bytes`; it is not UTF-8 (with the line); standard input is closed.
    """
    name, path = name_of(path), None if str(path) == "-" else path
    try:
        return (read_bytes(path) if path else _standard_input()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1  # of what is behind the mark, as the place is
        raise InputError(
            f"{name}, line {line}: not UTF-8", path=path, line=line, help="convert it, e.g. with iconv -t utf-8"
        ) from None


def name_of(path: Path | None) -> str:
    """What messages call the place that `read_text` reads."""
    return "standard input" if path is None or str(path) == "-" else str(path)


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: it cannot be read, see `reading`.
    """
    with reading(path):
        return path.read_bytes()


def _standard_input() -> bytes:
    """
    Raises:
        InputError: it is closed.
    """
    if sys.stdin is None:
        raise InputError("there is no standard input: it is closed", help="name a file with --input")
    if sys.stdin.buffer.isatty():
        print("sentences are read from this terminal until its end: Ctrl-D", file=sys.stderr)
    return sys.stdin.buffer.read()


def one_line(text: str) -> str:
    """`text` where lines part one answer from the next."""
    return text.replace("\n", " ")


def require_output(path: Path | None) -> None:
    """Checks that `write_text` could write there, before the work that leads to it.

    Raises:
        InputError: see `require_writable`.
        OperationalError: standard output is closed.
    """
    if path is not None:
        require_writable(path)
    elif sys.stdout is None:
        raise OperationalError("there is no standard output: it is closed", help="name a file with --output")


def write_lines(path: Path | None, sources: Sequence[str], translations: Sequence[str], *, as_json: bool) -> None:
    """Writes one line per translation, to a file (atomically) or standard output."""
    if as_json:
        lines = [
            json.dumps({"source": source, "translation": translation}, ensure_ascii=False)
            for source, translation in zip(sources, translations, strict=True)
        ]
    else:
        lines = [one_line(translation) for translation in translations]
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_text(path: Path | None, text: str) -> None:
    """To a file, atomically, or to standard output. A pipe or device is written to, not replaced."""
    if path is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with written_file(path) as place:
        place.write_text(text, encoding="utf-8")
