"""The committed manifests as the tests read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.policy.source import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def resources(folder: str) -> dict[str, dict[str, Any]]:
    """Kind -> manifest, of the resources that a folder's kustomization names itself."""
    (kustomization,) = documents(KUBERNETES / folder / "kustomization.yaml")
    files = [KUBERNETES / folder / name for name in kustomization["resources"] if name.endswith(".yaml")]
    found = [document for file in files for document in documents(file)]
    assert len({document["kind"] for document in found}) == len(found)
    return {document["kind"]: document for document in found}


def serve_command(arguments: list[str]) -> dict[str, Any]:
    """The options of `t2tdeploy serve` by name, as the command line reads them."""
    from t2tdeploy.cli.main import commands

    name, *words = arguments
    return dict(commands.commands[name].make_context(name, words).params)
