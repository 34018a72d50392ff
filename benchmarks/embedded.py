"""What the embedded data and `transformer_tiny` reach: BLEU on test and minutes, from nothing, for each language.

    python benchmarks/embedded.py

The commands are those of `make demo`; the goal is 95 BLEU in the demo's minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import publish

PROBLEMS = ("translate_dates_ende", "translate_dates_enfr")
GOAL_BLEU = 95.0


def t2tdeploy(*arguments: str | Path) -> Any:
    """Runs one command; returns the JSON object of its last line."""
    words = [sys.executable, "-m", "t2tdeploy", *map(str, arguments), "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def road(problem: str, folder: Path) -> dict[str, Any]:
    """Datagen, training and evaluation of one problem."""
    begun = time.perf_counter()
    t2tdeploy("datagen", "--problem", problem, "--data-dir", folder / "data")
    generated = time.perf_counter()
    trained = t2tdeploy(
        "train", "--problem", problem, "--model", "transformer", "--hparams-set", "transformer_tiny",
        "--data-dir", folder / "data", "--output-dir", folder / problem,
        "--eval-every", "500", "--eval-sentences", "100",
    )  # fmt: skip
    ended = time.perf_counter()
    report = t2tdeploy("evaluate", "--output-dir", folder / problem, "--split", "test")
    return {
        "steps": trained["step"],
        "datagen_seconds": round(generated - begun, 1),
        "training_minutes": round((ended - generated) / 60, 2),
        "test_bleu": report["bleu"],
        "test_perplexity": report["perplexity"],
        "goal_met": report["bleu"] > GOAL_BLEU,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = {problem: road(problem, Path(folder)) for problem in PROBLEMS}
    publish("embedded", result, packages=("torch", "sentencepiece", "sacrebleu", "babel", "num2words"))


if __name__ == "__main__":
    main()
