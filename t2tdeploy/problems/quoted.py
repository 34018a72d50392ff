"""Rows of values in double quotes, by Python's `csv`; a quote that goes astray is an error, not a row of many lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from t2tdeploy.errors import InputError
from t2tdeploy.problems.encodings import EncodingCheck
from t2tdeploy.problems.text import open_binary

csv.field_size_limit(2**31 - 1)  # of this process; a value may be a whole document


def read_quoted(path: Path, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The values of every row, with the number of its first line.

    A value in quotes may hold separators, line ends and, doubled, quotes. Bytes that are not UTF-8 are lone surrogates,
    as `surrogateescape` makes them.

    Raises:
        InputError: a quote is opened and never closed, or only by one of another value, so that rows would be one; or
            the file is in another encoding (see `EncodingCheck`).
        CorruptFileError: the file is damaged or cut off.
    """
    with open_binary(path) as file:
        encoding = EncodingCheck(path, file.peek(4)[:4])
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        lines: list[str] = []  # of the row that is read

        def kept() -> Iterator[str]:
            for line in text:
                encoding.see(line.encode("utf-8", "surrogateescape"))
                lines.append(line)
                yield line

        begun, before = 1, None  # where that row begins; where the one before it does, its values and lines
        try:
            for row in csv.reader(kept(), delimiter=separator):
                if before is not None:
                    yield before[0], before[1]
                before = begun, row, [*lines]
                if len(lines) > 1:
                    _require_closed_quotes(lines, separator)
                begun += len(lines)
                lines.clear()
            if before is not None:
                begun = before[0]
                _require_closed_quotes(before[2], separator)
                yield begun, before[1]
            encoding.finish()
        except csv.Error as error:
            raise InputError(
                f"{path} cannot be read from line {begun} on: {error}",
                path=path,
                line=begun,
                help="is there a quote that no other one closes? "
                'A value with a quote in it is written "with two "" quotes"',
            ) from error


def _require_closed_quotes(lines: Sequence[str], separator: str) -> None:
    """Of one row, of several lines or the last: of any other row, a quote in the middle of a value is just that.

    Raises:
        csv.Error: a quote is never closed, or closed where its value goes on: by one that opens another value.
    """
    if not lines[-1].endswith(("\n", "\r")):
        lines = [*lines[:-1], lines[-1] + "\n"]
    try:
        list(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error as error:
        if "unexpected end" in str(error) or len(lines) > 1:
            raise csv.Error("a quote is opened and never closed") from None
