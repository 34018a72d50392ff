"""Rows of tables from files: JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2tdeploy.cli.lines import name_of, read_text
from t2tdeploy.errors import InputError, nearest

_SEPARATORS = ",;\t|"


def read_json_rows(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file: one, a list of them, or one a line.

    Raises:
        InputError: it cannot be read, see `read_text`, or is something else.
    """
    content, name = read_text(path), name_of(path)
    try:
        whole = json.loads(content)
        rows = whole if isinstance(whole, list) else [whole]
    except ValueError:
        rows = []
        for number, line in enumerate(content.split("\n"), 1):  # JSON's texts may hold other line ends
            try:
                rows += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise InputError(f"{name}, line {number}: not JSON ({error})", path=path, line=number) from None
    except RecursionError:
        raise InputError(f"{name}: nested too deeply", path=path) from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(
                f"{name}, row {number}: a {type(row).__name__}, where an object is expected",
                path=path,
                help='a row names its features: {"width": 1.5, "colour": "red"}',
            )
    if not rows:
        raise InputError(f"{name} holds no example", path=path)
    return rows


def read_csv_rows(path: Path, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a CSV file by the names in its first line, as texts.

    What separates its values is what its first line has of comma, semicolon, tab and bar, in this order.

    Args:
        without: columns that are left out.

    Raises:
        InputError: it cannot be read, see `read_text`; a name comes twice, or is none of its columns; a row has more or
            fewer values than there are names.
    """
    content, name = read_text(path), name_of(path)
    header = content.partition("\n")[0]
    separator = next((mark for mark in _SEPARATORS if mark in header), ",")
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    rows: list[dict[str, Any]] = []
    columns: list[str] = []
    try:
        for values in reader:
            if not values:
                continue  # an empty line
            if not columns:
                columns = _columns(values, without, path)
            elif len(values) != len(columns):
                raise InputError(
                    f"{name}, line {reader.line_num}: {len(values)} values, but {len(columns)} columns",
                    path=path,
                    line=reader.line_num,
                    help='values that hold a separator stand in double quotes: "a, b"',
                )
            else:
                named = zip(columns, values, strict=True)
                rows.append({column: value for column, value in named if column not in without})
    except csv.Error as error:
        raise InputError(
            f"{name}, line {reader.line_num}: not CSV ({error})", path=path, line=reader.line_num
        ) from None
    if not rows:
        raise InputError(f"{name} holds no row", path=path, help="its first line names the columns, rows follow")
    return rows


def _columns(names: list[str], without: Sequence[str], path: Path) -> list[str]:
    names = [name.strip() for name in names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{name_of(path)} has the column '{twice}' twice", path=path, help="rename one of them")
    for name in without:
        if name not in names:
            close = nearest(name, names)
            raise InputError(
                f"--without {name}: {name_of(path)} has the columns {', '.join(names)}",
                path=path,
                help=f"did you mean '{close}'?" if close else None,
            )
    return names
