"""The tutorials of docs/estimator.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import t2tdeploy
from tests.policy.source import ROOT

PAGE = ROOT / "docs" / "estimator.md"
CODE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
OWN_MODEL, IRIS, IN_8_BITS = CODE


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    printed: list[str] = []
    monkeypatch.chdir(folder)
    exec(  # the page's own words
        compile(code, str(PAGE), "exec"),
        {"__name__": "estimator_page", "print": lambda *values: printed.append(" ".join(map(str, values)))},
    )
    return printed


def test_your_own_model_reads_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (accuracy,) = run(OWN_MODEL, tmp_path, monkeypatch)
    assert float(accuracy) > 0.95


def test_its_bundle_gets_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, accuracies, sizes = run(f"{OWN_MODEL}\n{IN_8_BITS}", tmp_path, monkeypatch)
    found, wanted = map(float, accuracies.split())
    assert found >= wanted - 0.01
    small, whole, _ = map(float, sizes.split())
    assert small < 0.75 * whole
    assert t2tdeploy.load("bundles/digits_estimator").bundle.manifest.default_variant == "cpu-int8"


def test_iris_is_told_apart_by_estimator_and_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, *predictions, of_bundle = run(IRIS, tmp_path, monkeypatch)
    assert float(scores.split()[0]) >= 0.96
    assert len(predictions) == 30
    assert predictions[0].split()[0] == of_bundle
