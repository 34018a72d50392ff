"""The results as a page."""

from __future__ import annotations

from typing import Any


def markdown(content: dict[str, Any]) -> str:
    """What run.py found, in Markdown tables; what could not run comes with its reason."""
    lines = ["# Results on a GPU", ""]
    if content["reduced"]:
        lines += ["**Reduced: tiny sizes on a CPU, nothing compiled. The numbers mean nothing.**", ""]
    told = None
    for title, section in content["sections"].items():
        lines += [f"## {title}", ""]
        if (machine := _machine(section)) != told:
            lines += [machine, ""]
            told = machine
        lines += [f"{section['minutes']} minutes.", ""]
        if section["could_not_run"] is not None:
            lines += [f"**Could not run: {section['could_not_run']}**", ""]
        if section["rows"]:
            lines += [*_table(section["rows"]), ""]
    return "\n".join(lines)


def _machine(section: dict[str, Any]) -> str:
    """Day, machine and versions."""
    found = section["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in found.get("packages", {}).items())
    return (
        f"{section['date']}. GPU: {found.get('gpu') or 'none'}; CPU: {found['cpu']}, {found['cores']} cores; "
        f"Python {found['python']}, CUDA {found.get('cuda_version') or 'none'}; {packages or found.get('torch')}."
    )


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """One column for each key that any row has; the reasons come last."""
    names = sorted(dict.fromkeys(name for row in rows for name in row), key=lambda name: name == "could_not_run")
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + " --- |" * len(names)]
    cells = ([str(row.get(name, "")).replace("|", "\\|") for name in names] for row in rows)
    return [*lines, *("| " + " | ".join(row) + " |" for row in cells)]
