"""Rooms stay small: a file has at most 400 lines, a function at most 60."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.policy.source import ROOT, python_files

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
FILES = python_files("t2tdeploy", "tests", "scripts", "benchmarks")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_size(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MAX_FILE_LINES, f"{path.name} has {lines} lines: two nouns share a room"
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: size for node in functions if (size := function_lines(node)) > MAX_FUNCTION_LINES}
    assert not long


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_files_are_found() -> None:
    assert len(FILES) > 50
