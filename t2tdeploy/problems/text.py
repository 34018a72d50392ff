"""Lines and sentence pairs out of text files: plain, gzip or Zstandard, strictly UTF-8.

pyarrow decompresses: unlike Python's zstandard package it notices a file that was cut off.

Nothing is lost silently: a line that cannot be used is skipped, counted and remembered with its number in a
`BadLines`, which `datagen` puts into the statistics. Files that cannot be paired line by line are an error.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import pyarrow

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.files import reading
from t2tdeploy.problems.encodings import EncodingCheck

KEPT_LINE_NUMBERS = 20
COMPRESSIONS = (".gz", ".zst")

F = TypeVar("F", bound=str)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLines:
    """Lines left out, by file and reason: how many, and the numbers of the first ones."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], list[int]] = {}

    def add(self, file: Path | str, line: int, reason: str) -> None:
        """Line `line` (from 1) of `file` was left out because of `reason` ("empty", "not UTF-8")."""
        key = (Path(file).name, reason)
        self._counts[key] = self._counts.get(key, 0) + 1
        first = self._first.setdefault(key, [])
        if len(first) < KEPT_LINE_NUMBERS:
            first.append(line)

    @property
    def count(self) -> int:
        """Number of lines left out. One line left out for faults on both sides counts twice."""
        return sum(self._counts.values())

    def reasons(self) -> str:
        """How many lines each reason left out, the commonest first: "12 not UTF-8, 3 empty"."""
        counts: Counter[str] = Counter()
        for (_, reason), count in self._counts.items():
            counts[reason] += count
        return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())

    def to_json(self) -> list[dict[str, Any]]:
        """One entry per file and reason: {"file", "reason", "count", "first_lines"}."""
        return [
            {"file": file, "reason": reason, "count": count, "first_lines": self._first[file, reason]}
            for (file, reason), count in sorted(self._counts.items())
        ]


def format_by_suffix(path: Path, formats: Mapping[str, F], *, help: str) -> F:
    """The format that a file name shows, behind `.gz` or `.zst`.

    Args:
        formats: of each suffix, in lower case.
        help: of the error.

    Raises:
        InputError: the suffix is not known.
    """
    suffix = (path.with_suffix("") if path.suffix in COMPRESSIONS else path).suffix.lower()
    if suffix not in formats:
        raise InputError(
            f"cannot tell the format of {path} from its name; known suffixes: {', '.join(formats)}",
            path=path,
            help=help,
        )
    return formats[suffix]


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without their line ends (LF or CRLF) and without a byte order mark.

    `.gz` and `.zst` files are decompressed on the way. Only LF ends a line: other Unicode line separators may stand
    within a sentence and must not shift one side of a corpus against the other.

    Raises:
        InputError: there is no such file, it cannot be read, or it is in another encoding (see `EncodingCheck`).
        CorruptFileError: the compressed data are damaged or cut off.
    """
    with open_binary(path) as file:
        encoding = EncodingCheck(path, file.peek(4)[:4])
        for number, line in enumerate(file):
            encoding.see(line)
            line = line.rstrip(b"\r\n")
            yield line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line
        encoding.finish()


def read_pairs(inputs: Path, targets: Path, bad_lines: BadLines) -> Iterator[dict[str, str]]:
    """Line n of `inputs` with line n of `targets` as {"inputs", "targets"}, surrounding white space removed.

    A pair with an empty side or broken UTF-8 is skipped and added to `bad_lines`. Blank lines at the end of the
    files are no lines.

    Raises:
        InputError: the files have different numbers of lines (the message has both), or a file is missing.
        CorruptFileError: the compressed data are damaged or cut off.
    """
    blank = []  # pairs of blank lines: bad ones if a sentence follows, else the end of the files
    lines = enumerate(zip_longest(read_lines(inputs), read_lines(targets)), start=1)
    for number, (source, target) in lines:
        source_blank, target_blank = not (source or b"").strip(), not (target or b"").strip()
        if source_blank and target_blank:
            blank.append(number)
            continue
        if source is None or target is None:
            raise _unequal(inputs, targets)
        for earlier in blank:
            bad_lines.add(inputs, earlier, "empty")
            bad_lines.add(targets, earlier, "empty")
        blank.clear()
        texts = _decode(inputs, number, source, bad_lines), _decode(targets, number, target, bad_lines)
        if texts[0] and texts[1]:
            yield {"inputs": texts[0], "targets": texts[1]}


def read_texts(path: Path, bad_lines: BadLines) -> Iterator[str]:
    """The lines of one file as text; empty ones and broken UTF-8 are skipped and added to `bad_lines`.

    Raises:
        InputError: there is no such file, or it cannot be read.
        CorruptFileError: the compressed data are damaged or cut off.
    """
    for number, line in enumerate(read_lines(path), start=1):
        text = _decode(path, number, line, bad_lines)
        if text:
            yield text


def _decode(path: Path, number: int, line: bytes, bad_lines: BadLines) -> str | None:
    """The line as stripped text, or None after noting why not."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        bad_lines.add(path, number, "not UTF-8")
        return None
    if not text:
        bad_lines.add(path, number, "empty")
        return None
    return text


def _unequal(inputs: Path, targets: Path) -> InputError:
    counts = [_count_lines(path) for path in (inputs, targets)]
    return InputError(
        f"{inputs} has {counts[0]} lines but {targets} has {counts[1]}: they cannot be paired",
        path=inputs,
        line=min(counts) + 1,
        help="line n of one file must be the translation of line n of the other",
    )


def _count_lines(path: Path) -> int:
    """Lines up to the last that is not blank."""
    return max((number for number, line in enumerate(read_lines(path), start=1) if line.strip()), default=0)


@contextmanager
def open_binary(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed on the way.

    Raises:
        InputError: there is no such file, or it cannot be read; while it is read, too.
        CorruptFileError: the compressed data are damaged or cut off.
    """
    compressed = path.suffix in COMPRESSIONS
    try:
        with reading(path):
            if compressed and path.stat().st_size == 0:
                raise CorruptFileError(path, "it is empty", help="fetch the file again")
            with pyarrow.input_stream(str(path), compression="detect") as stream:
                yield io.BufferedReader(stream)
    except OSError as error:  # of the decompressor
        raise CorruptFileError(path, str(error), help="fetch the file again") from error
