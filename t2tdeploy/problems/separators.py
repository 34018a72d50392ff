"""What separates the values of a text file, and what a file looks separated by that was read with another separator."""

from __future__ import annotations

SEPARATORS = {"csv": ",", "tsv": "\t"}

_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_SAYS = {";": "separator=;", "\t": "format=tsv", ",": "format=csv", "|": "separator=|"}


def separator_name(separator: str) -> str:
    """In words, for messages: commas."""
    return _NAMES.get(separator, f"'{separator}'")


def other_separator(line: str, separator: str) -> str | None:
    """What to say about a line that `separator` does not part, if another separator does; else None."""
    if separator in line:
        return None
    mark = next((mark for mark in _SAYS if mark in line), None)
    return f"it looks separated by {_NAMES[mark]}: say {_SAYS[mark]}" if mark else None
