"""The tests that need a GPU."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from processes import ROOT, CouldNotRunError, Section, run_python

from t2tdeploy.runtime import available_cpus

NO_TESTS = 5  # pytest's exit status
MOST_SESSIONS = 8  # each holds a CUDA context


def run_tests(section: Section) -> None:
    """A row for each test marked `gpu`.

    Raises:
        CouldNotRunError: there is no pytest, no such test, or all were skipped.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # addopts of pyproject.toml name a plugin that the machine may lack.
        words = ["-m", "pytest", *_files(), "-m", "gpu", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
        if importlib.util.find_spec("xdist"):  # most of the time goes into building graphs, on one CPU each
            words += ["-n", str(min(available_cpus(), MOST_SESSIONS)), "--dist", "worksteal"]
        run_python(
            [*words, "--continue-on-collection-errors", f"--junitxml={report}"],
            variables=section.variables,
            seconds=section.seconds_left,
            statuses=(0, 1, NO_TESTS),
        )
        cases = ElementTree.parse(report).getroot().iter("testcase")
        section.rows += [_row(case) for case in cases]
    if not section.rows:
        raise CouldNotRunError("no test is marked gpu")
    skipped = [row["why"] for row in section.rows if row["outcome"] == "skipped"]
    if len(skipped) == len(section.rows):
        raise CouldNotRunError(f"all {len(skipped)} tests were skipped: {'; '.join(dict.fromkeys(skipped))}")


def _files() -> list[str]:
    """Of all tests, those that mark some for a GPU: others import what the machine may lack."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]


def _row(case: ElementTree.Element) -> dict[str, str | float]:
    row: dict[str, str | float] = {
        "test": f"{case.get('classname', '')}::{case.get('name', '')}",
        "outcome": "passed",
        "seconds": float(case.get("time", 0)),
    }
    for outcome, tag in (("skipped", "skipped"), ("failed", "failure"), ("failed", "error")):
        if (found := case.find(tag)) is not None:
            row |= {"outcome": outcome, "why": (found.get("message") or "").splitlines()[0][:300]}
    return row
