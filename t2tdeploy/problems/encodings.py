"""Whether a text file is UTF-8 as a whole: one in another encoding is an error, not a file of bad lines.

A few lines that are not UTF-8 are usual in collected text and are left out. UTF-16 and UTF-32 are told by their byte
order mark or their bytes that are 0, any other encoding by the share of lines that are not UTF-8.
"""

from __future__ import annotations

from pathlib import Path

from t2tdeploy.errors import InputError

FEWEST_LINES = 20
MOST_BAD_PERCENT = 5

_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


class EncodingCheck:
    """Sees every line of a file, in order.

    Args:
        start: its first four bytes.

    Raises:
        InputError: it begins with the byte order mark of another encoding.
    """

    def __init__(self, path: Path, start: bytes) -> None:
        self._path = path
        self._lines = self._bad = 0
        self._first_bad: int | None = None
        encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
        if encoding:
            raise InputError(
                f"{path} is {encoding}, by its byte order mark, not UTF-8",
                path=path,
                help=f"save the file as UTF-8, e.g. with iconv -f {encoding.lower()} -t utf-8",
            )

    def see(self, line: bytes) -> None:
        """Looks at the next line.

        Raises:
            InputError: it holds a byte that is 0, as nearly every line of UTF-16 does.
        """
        self._lines += 1
        if b"\0" in line:
            raise InputError(
                f"{self._path}, line {self._lines}: a byte that is 0, which text in UTF-8 does not hold",
                path=self._path,
                line=self._lines,
                help="if the file is UTF-16, save it as UTF-8, e.g. with iconv -f utf-16le -t utf-8; if it is UTF-8, "
                r"remove these bytes, e.g. with tr -d '\000'",
            )
        if not _is_utf8(line):
            self._bad += 1
            self._first_bad = self._first_bad or self._lines

    def finish(self) -> None:
        """
        Raises:
            InputError: so many of the lines are not UTF-8 that the file is in another encoding.
        """
        if self._lines >= FEWEST_LINES and self._bad * 100 > self._lines * MOST_BAD_PERCENT:
            share = self._bad / self._lines
            raise InputError(
                f"{self._path}: {self._bad} of {self._lines} lines ({share:.0%}) are not UTF-8, "
                f"the first is line {self._first_bad}",
                path=self._path,
                line=self._first_bad,
                help="save the file as UTF-8, e.g. with iconv -f latin1 -t utf-8 or iconv -f windows-1252 -t utf-8; "
                f"only up to {MOST_BAD_PERCENT} % of such lines are left out and counted",
            )


def _is_utf8(line: bytes) -> bool:
    if line.isascii():
        return True
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
