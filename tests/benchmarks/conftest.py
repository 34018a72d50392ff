"""Benchmarks are scripts in a folder of their own; they import each other by bare names."""

from __future__ import annotations

import sys

from tests.policy.source import ROOT

sys.path.append(str(ROOT / "benchmarks"))
