"""The training benchmark's last line, and how it makes ratios of seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import train_engines
from train_engines import Measured

from tests.integration.commands import ENVIRONMENT
from tests.policy.source import ROOT


def measured(*passes: float, peak: int) -> Measured:
    memory = {"peak_bytes": peak, "peak_since_mark": True, "idle_cpu_share": 0.0}
    return Measured(passes=[[seconds / 2, seconds / 2] for seconds in passes], memory=memory)


def test_ratios_compare_within_a_round() -> None:
    variants = {"ort": measured(1, 10, 2, peak=13), "torch": measured(2, 20, 6, peak=10)}
    ratios, quartiles = train_engines.ratios_of(variants)
    assert ratios == {"ort_over_torch": 2, "memory_ratio": 1.3}
    assert quartiles == {"ort_over_torch": [2, 2.5]}


@pytest.mark.parametrize("faulty", ["ort", "torch"])
def test_what_could_not_run_has_no_ratio(faulty: str) -> None:
    variants = {"ort": measured(1, peak=1), "torch": measured(2, peak=1), faulty: Measured(failed="no compiler")}
    ratios, _ = train_engines.ratios_of(variants)
    assert ratios == {"ort_over_torch": None, "memory_ratio": None}
    assert variants[faulty].record(1) == {"failed": "no compiler"}


def test_the_last_line_is_the_ratios_of_each_size() -> None:
    words = ["--quick", "--variants", "torch", "--rounds", "2", "--batches", "1", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "train_engines.py", *words],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    ratios: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(ratios) == {"tiny"}
    assert set(ratios["tiny"]) == {"ort_over_torch", "memory_ratio"}
    assert all(value > 0 for value in ratios["tiny"].values()), done.stderr
