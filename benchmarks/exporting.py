"""What it brings that an export keeps the pieces of its search which are the same for every model.

    python benchmarks/exporting.py

A process for each measurement: it makes the graph of transformer_base's search, once in an empty cache and then in the
one that this left, and so on in turns. Seconds are of that call alone, not of starting Python or of imports.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import publish

ROUNDS = 5
_WORKER = """
import json, time
from decode_models import base_model
from t2tdeploy.export.beam_search import export_beam_search

model = base_model()
start, cpu = time.perf_counter(), time.process_time()
export_beam_search(model)
print(json.dumps({"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}))
"""


def exported(cache: str) -> dict[str, float]:
    """Seconds of an export in a new process with this cache."""
    done = subprocess.run(
        [sys.executable, "-c", _WORKER],
        cwd=Path(__file__).parent,
        env={**os.environ, "T2TDEPLOY_CACHE": cache},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    times: dict[str, list[dict[str, float]]] = {"first": [], "later": []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as cache:
            for found in times.values():
                found.append(exported(cache))
    result: dict[str, Any] = {"rounds": ROUNDS}
    for name, found in times.items():
        for what in ("seconds", "cpu_seconds"):
            result[f"{name}_{what}"] = round(statistics.median(one[what] for one in found), 2)
    ratios = [first["seconds"] / later["seconds"] for first, later in zip(times["first"], times["later"], strict=True)]
    result["speedup"] = round(statistics.median(ratios), 2)
    publish("exporting", result, packages=("torch", "onnx", "onnxscript"))


if __name__ == "__main__":
    main()
