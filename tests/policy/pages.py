"""The documentation as the policy tests read it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.policy.source import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[|;&$] *)((?:t2tdeploy|make) .*)")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks, line breaks as spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def block_commands(page: Path) -> list[str]:
    """The command lines of t2tdeploy and make in code blocks; continued lines joined, comments and a last & dropped."""
    lines = [
        line.strip()
        for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [_COMMAND.search(line) for line in lines]
    return [re.sub(r"\s#\s.*|\s&$", "", match[1]) for match in found if match]


def anchors(page: Path) -> set[str]:
    """The fragments that headings can be linked by (GitHub's rule)."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
