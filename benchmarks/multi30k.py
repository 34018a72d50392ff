"""The real run: Multi30k English to German, from text to translations served over gRPC, on whatever CPU this is.

    python benchmarks/multi30k.py --source-dir FOLDER_WITH_MULTI30K     # without it the files are downloaded

Every stage is the command a user would type. Stages that are done are not repeated: training resumes, so the script can
be stopped and started. The checkpoint to deploy (best or averaged) is chosen on dev; test is looked at afterwards.
Then some steps of both engines are timed, in turns, on the same data. Writes benchmarks/results/multi30k.json and the
training curve beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, publish

from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.metrics import translation_scores
from t2tdeploy.training.summaries import read_metrics

PROBLEM, HPARAMS_SET = "translate_ende_multi30k", "transformer_multi30k"
TIMED_STEPS, TIMED_WINDOW, TIMED_ROUNDS = 60, 20, 2  # the first window warms up
GOAL_BLEU, GOAL_MINUTES = 37.5, 60.0
PACKAGES = ("torch", "onnx", "onnxruntime", "sentencepiece", "sacrebleu", "grpcio")


def t2tdeploy(*arguments: str | Path) -> Any:
    """Runs one command; returns the JSON object of its last line."""
    words = [sys.executable, "-m", "t2tdeploy", *map(str, arguments), "--json"]
    print("$ t2tdeploy", *arguments, flush=True)
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def training_minutes(run: Path) -> float:
    """From the start of the run to its last checkpoint, evaluations and any pauses included."""
    begun = datetime.datetime.fromisoformat(json.loads((run / "run.json").read_text())["created"])
    newest = max((run / "checkpoints").glob("step-*"))
    return ((newest / "state.json").stat().st_mtime - begun.timestamp()) / 60


def evaluations(run: Path, checkpoint: str) -> dict[str, Any]:
    return {
        split: t2tdeploy(
            "evaluate", "--output-dir", run, "--split", split, "--checkpoint", checkpoint, "--lowercase"
        )
        for split in ("dev", "test")
    }  # fmt: skip


def served_translations(bundle: Path, sources: list[str], folder: Path) -> tuple[list[str], float]:
    """Translations of the whole list by `t2tdeploy translate` against `t2tdeploy serve`, and the seconds it took."""
    server = subprocess.Popen(
        [sys.executable, "-m", "t2tdeploy", "serve", "--bundle", str(bundle), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    port = next(json.loads(line)["port"] for line in server.stdout if '"serving"' in line)
    text, answers = folder / "test.en", folder / "served.de"
    text.write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "t2tdeploy", "translate", "--server", f"localhost:{port}",
         "--input", str(text), "--output", str(answers)], check=True)  # fmt: skip
    seconds = time.perf_counter() - begun
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) == 0
    return answers.read_text(encoding="utf-8").split("\n")[:-1], seconds


def epoch_seconds(data_dir: Path) -> dict[str, Any]:
    """How long an epoch takes each engine, from the token rates of a few steps; median and all of the rates."""
    tokens = sum(int(lengths.sum()) for lengths in open_problem(PROBLEM, data_dir).split("train").lengths.values())
    rates: dict[str, list[float]] = {"ort": [], "torch": []}
    for turn in range(TIMED_ROUNDS):
        for engine in list(rates)[:: 1 if turn % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                t2tdeploy(
                    "train", "--problem", PROBLEM, "--model", "transformer", "--hparams-set", HPARAMS_SET,
                    "--data-dir", data_dir, "--output-dir", folder, "--engine", engine, "--no-decode",
                    "--train-steps", str(TIMED_STEPS), "--log-every", str(TIMED_WINDOW),
                )  # fmt: skip
                points = [line for line in read_metrics(Path(folder)) if line["group"] == "train"]
            rates[engine] += [point["tokens_per_second"] for point in points[1:]]
    return {
        "tokens": tokens,
        **{engine: round(tokens / statistics.median(of), 1) for engine, of in rates.items()},
        "tokens_per_second": {engine: [round(rate) for rate in of] for engine, of in rates.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source-dir", type=Path, default=Path("raw"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--run", type=Path, default=Path("runs/multi30k"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/multi30k"))
    options = parser.parse_args()
    t2tdeploy("datagen", "--problem", PROBLEM, "--data-dir", options.data_dir, "--source-dir", options.source_dir)
    trained = t2tdeploy(
        "train", "--problem", PROBLEM, "--model", "transformer", "--hparams-set", HPARAMS_SET,
        "--data-dir", options.data_dir, "--output-dir", options.run, "--eval-every", "800", "--save-every", "200",
    )  # fmt: skip
    t2tdeploy("average", "--output-dir", options.run, "--last", "5")
    candidates = {checkpoint: evaluations(options.run, checkpoint) for checkpoint in ("best", "averaged")}
    chosen = max(candidates, key=lambda checkpoint: candidates[checkpoint]["dev"]["bleu"])
    t2tdeploy(
        "export", "--output-dir", options.run, "--bundle", options.bundle, "--checkpoint", chosen, "--overwrite"
    )  # fmt: skip
    test = open_problem(PROBLEM, options.data_dir).split("test")
    served, seconds = served_translations(options.bundle, test.texts("inputs"), options.run)
    scores = translation_scores(served, test.texts("targets"))
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(options.run / "curve.png", RESULTS / "multi30k.png")
    minutes = training_minutes(options.run)
    publish(
        "multi30k",
        {
            "hparams_set": HPARAMS_SET,
            "steps": trained["step"],
            "training_minutes": round(minutes, 1),
            "engine": "ort",
            "epoch_seconds": epoch_seconds(options.data_dir),
            "deployed_checkpoint": chosen,
            "evaluate": candidates,
            "served_test_bleu": scores.bleu,
            "served_test_chrf": scores.chrf,
            "served_bleu_signature": scores.bleu_signature,
            "served_equals_evaluate": abs(scores.bleu - candidates[chosen]["test"]["bleu"]) < 0.005,
            "served_sentences_per_second": round(len(served) / seconds, 1),
            "parity": json.loads((options.bundle / "parity.json").read_text()),
            "goal": {"bleu": GOAL_BLEU, "minutes": GOAL_MINUTES},
            "goal_met": scores.bleu >= GOAL_BLEU and minutes <= GOAL_MINUTES,
        },
        packages=PACKAGES,
    )


if __name__ == "__main__":
    main()
