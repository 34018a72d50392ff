"""How long `t2tdeploy --help` takes; the goal is 0.3 s. And how long a server's imports take.

    python benchmarks/startup.py

Wall time of whole processes, as a shell sees it. The bare interpreter is measured beside them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import publish

RUNS = 10
GOAL_S = 0.3
COMMANDS = {
    "help": [str(Path(sys.executable).with_name("t2tdeploy")), "--help"],
    "import_server": [sys.executable, "-c", "import t2tdeploy.serving.server"],
    "bare_python": [sys.executable, "-c", "pass"],
}


def wall_times(command: list[str]) -> list[float]:
    """Seconds of each of RUNS processes, after one that warms the file cache."""
    times = []
    for _ in range(1 + RUNS):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    result: dict[str, float] = {"runs": RUNS, "goal_help_s": GOAL_S}
    for name, command in COMMANDS.items():
        times = wall_times(command)
        result[f"{name}_median_s"] = round(statistics.median(times), 3)
        result[f"{name}_slowest_s"] = round(max(times), 3)
    publish("startup", result, packages=("click", "pydantic", "grpcio", "onnxruntime"))


if __name__ == "__main__":
    main()
