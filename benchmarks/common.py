"""What all benchmarks share: the description of the machine, and the one way to publish a result."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FEATURES = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"}  # what speeds depend on
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """CPU model, cores this process may use, memory, Python; nothing that names the machine."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor(),
        "cpu_features": sorted(_FEATURES & set(_cpuinfo("flags").split())),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpuinfo(field: str) -> str:
    """A field of the first CPU in /proc/cpuinfo; empty elsewhere than on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of t2tdeploy and these distributions."""
    return {package: importlib.metadata.version(package) for package in ("t2tdeploy", *packages)}


def publish(
    name: str,
    result: dict[str, Any],
    *,
    packages: Sequence[str] = ("numpy",),
    last_line: dict[str, Any] | None = None,
) -> None:
    """Writes benchmarks/results/NAME.json and prints the same as one JSON object on the last line.

    Args:
        packages: distributions whose versions matter for the numbers, besides t2tdeploy.
        last_line: what to print instead.
    """
    content = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "packages": versions(packages),
        "result": result,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content if last_line is None else last_line))
