"""What threads that stay awake between two operators bring to a search, and cost where CPUs are shared (`spin_us`).

    python benchmarks/spinning.py

transformer_base with random weights in int8, searches of 32 steps with beam 4, on all CPUs. One session for each
setting, all in one process, which search in turns; then the same beside one process that computes all the time. A ratio
is the median over the rounds of the speed over that of threads that sleep at once, within a round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from common import publish
from decode_backends import BEAM, NEVER_ENDS
from decode_models import TARGET_LENGTH, base_model, forced_groups, write_files

from t2tdeploy.runtime import SPIN_US, GraphSession, available_cpus
from t2tdeploy.sentences import pad_rows

SETTINGS = sorted({0, 10, SPIN_US, 50, 100, 1000})  # microseconds; the last is longer than any wait within a run
SEARCHES = {1: 4, 16: 1, 64: 1}  # batch size -> searches of a measurement
ROUNDS = 7


def main() -> None:
    groups = forced_groups(list(SEARCHES))
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(base_model(), Path(folder), groups[str(max(SEARCHES))]["batches"][0])
        graph = files.models["t2tdeploy", "int8"]
        sessions = {spin: GraphSession(graph, spin_us=spin) for spin in SETTINGS}
    batches = {size: pad_rows(groups[str(size)]["batches"][0]) for size in SEARCHES}
    result: dict[str, Any] = {"threads": available_cpus(), "rounds": ROUNDS, "default_spin_us": SPIN_US}
    for busy in (0, 1):
        with ExitStack() as stack:
            for _ in range(busy):
                stack.callback(subprocess.Popen([sys.executable, "-c", "while True: pass"]).kill)
            result[f"beside_{busy}_busy_processes"] = {
                str(size): ratios(sessions, batch, SEARCHES[size]) for size, batch in batches.items()
            }
    publish("spinning", result, packages=("onnxruntime", "numpy"))


def ratios(sessions: dict[int, GraphSession], batch: np.ndarray[Any, Any], searches: int) -> dict[str, Any]:
    """Of one batch: seconds of a search with sleeping threads, and how many times as fast each other setting is."""
    for session in sessions.values():
        search(session, batch)
    rounds = [
        {spin: sum(search(session, batch) for _ in range(searches)) / searches for spin, session in sessions.items()}
        for _ in range(ROUNDS)
    ]
    return {
        "seconds_asleep": round(statistics.median(seconds[0] for seconds in rounds), 4),
        "speed_over_asleep": {
            str(spin): round(statistics.median(seconds[0] / seconds[spin] for seconds in rounds), 3)
            for spin in sessions
            if spin > 0
        },
    }


def search(session: GraphSession, batch: np.ndarray[Any, Any]) -> float:
    """Seconds of one."""
    begun = time.perf_counter()
    session.search(
        batch, np.full(len(batch), TARGET_LENGTH), beam_size=BEAM, alpha=NEVER_ENDS, num_hypotheses=1
    )  # fmt: skip
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
