"""Models that classify, from nothing to a server's answers: accuracy and seconds of Iris, digits and SST-2.

    python benchmarks/classify.py --sst2 FOLDER     # results/classify.json; FOLDER has train.tsv, dev.tsv and test.tsv
    python benchmarks/classify.py --only iris,digits

Each is trained by the commands of the documentation, scored on its test split, exported, made an 8-bit variant of, and
served; then every test example is sent to the server. `served` is the accuracy of those answers. `served_over_bare`:
examples per second of 64 callers with one example in each request, and with 64, over those of the same session in a
loop, in batches of 64 (classify_worker.py). These models are so small that most of that time is the server's; `large`
has the same, of one example a request, for SST-2 and an encoder as large as transformer_base's that is hardly trained.
Iris is trained through the Estimator as well (docs/estimator.md). Every training builds its graph: no cache has it. The
last line is one JSON object of the accuracies.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import publish
from serving_process import ServerProcess, serve_command, standing_still
from worker_process import WorkerProcess

from t2tdeploy.runtime import available_cpus

CALLERS = 64
SIZES = (1, 64)  # examples of a request
SECONDS, ROUNDS = 4.0, 3
ROOM = {"max_queue_sentences": 2 * CALLERS * max(SIZES), "max_queue_tokens": 2**20}  # for all callers at once
WORKER = Path(__file__).parent / "classify_worker.py"
VARIANT = "cpu-int8"
LARGE = "num_encoder_layers=6,hidden_size=512,filter_size=2048,num_heads=8"
LARGE_STEPS, LARGE_SECONDS = 5, 12.0


@dataclass(frozen=True)
class Road:
    """One problem and how it is trained.

    Args:
        goal: accuracy on test.
        seconds: that training may take.
        options: of train.
        problem_options: of datagen.
    """

    problem: str
    model: str
    hparams_set: str
    goal: float
    seconds: float
    options: tuple[str, ...] = ()
    problem_options: str = ""


ROADS = {
    "iris": Road("iris", "dnn_classifier", "dnn_iris", 0.96, 10),
    "digits": Road("image_digits", "resnet", "resnet_digits", 0.985, 180),
    "sst2": Road("sentiment_sst2", "nbsvm", "nbsvm_bytes", 0.82, 900, ("--eval-every", "40"), "vocab_kind=bytes"),
}


def t2tdeploy(*arguments: str | Path) -> Any:
    """Runs one command; returns the JSON object of its last line."""
    words = [sys.executable, "-m", "t2tdeploy", *map(str, arguments), "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def travel(road: Road, folder: Path, sources: Sequence[str]) -> dict[str, Any]:
    """Trains, evaluates, exports and serves one problem."""
    data, run, bundle = folder / "data", folder / road.problem, folder / f"{road.problem}-bundle"
    chosen = ["--problem-options", road.problem_options] if road.problem_options else []
    t2tdeploy("datagen", "--problem", road.problem, "--data-dir", data, *chosen, *sources)
    begun = time.perf_counter()
    trained = t2tdeploy(
        "train", "--problem", road.problem, "--model", road.model, "--hparams-set", road.hparams_set,
        "--data-dir", data, "--output-dir", run, *road.options,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    report = t2tdeploy("evaluate", "--output-dir", run, "--split", "test")
    t2tdeploy("export", "--output-dir", run, "--bundle", bundle)
    t2tdeploy(
        "optimize", "--bundle", bundle, "--output", bundle, "--overwrite", "--variant", VARIANT, "--default", VARIANT
    )
    examples, labels = test_examples(road.problem, data, bundle)
    return {
        "model": road.model,
        "hparams_set": road.hparams_set,
        "steps": trained["step"],
        "training_seconds": round(seconds, 1),
        "test_examples": len(labels),
        "test_accuracy": report["accuracy"],
        "goals_met": report["accuracy"] >= road.goal and seconds < road.seconds,
        **serve(bundle, examples, labels),
    }


def large(folder: Path, sources: Sequence[str]) -> dict[str, Any]:
    """What a server costs where an example takes milliseconds. The model need not know anything for that."""
    problem, data, run, bundle = "sentiment_sst2", folder / "data", folder / "run", folder / "bundle"
    t2tdeploy("datagen", "--problem", problem, "--data-dir", data, *sources)
    t2tdeploy(
        "train", "--problem", problem, "--model", "transformer_encoder", "--hparams-set", "transformer_encoder_small",
        "--hparams", LARGE, "--train-steps", str(LARGE_STEPS), "--data-dir", data, "--output-dir", run,
    )  # fmt: skip
    t2tdeploy("export", "--output-dir", run, "--bundle", bundle)
    t2tdeploy(
        "optimize", "--bundle", bundle, "--output", bundle, "--overwrite", "--force",
        "--variant", VARIANT, "--default", VARIANT,
    )  # fmt: skip
    examples, _ = test_examples(problem, data, bundle)
    with ServerProcess(serve_command(bundle, max_batch_size=CALLERS, **ROOM)) as server:
        speeds = throughput(bundle, server, examples, sizes=(1,), seconds=LARGE_SECONDS)
    return {"model": "transformer_encoder", "hparams": LARGE, **speeds}


def test_examples(problem: str, data_dir: Path, bundle: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What a client would send of every test example, and the names of their classes."""
    from t2tdeploy.bundle import load_bundle
    from t2tdeploy.problems.dataset import open_problem
    from t2tdeploy.problems.tabular import TabularProblem
    from t2tdeploy.progress import SilentReporter

    data = open_problem(problem, data_dir)
    split, classes = data.split("test"), data.features["targets"].classes
    names = load_bundle(bundle).manifest.features
    if isinstance(data.problem, TabularProblem):  # clients send the columns as they are in the table
        table = data.problem.rows("test", data_dir, SilentReporter()).columns
        columns = {name: np.asarray(table[name]).tolist() for name in names}
    else:
        columns = {name: split.samples(name) for name in names}
    examples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    targets = split.batch(np.arange(len(split)))["targets"]
    return examples, [classes[label] for label in targets.tolist()]


def serve(bundle: Path, examples: Sequence[Any], labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy of a server's answers, and how fast they come beside the bare session."""
    from t2tdeploy.serving.classification_client import ClassificationClient

    with ServerProcess(serve_command(bundle, max_batch_size=CALLERS, **ROOM)) as server:
        with ClassificationClient(server.address) as client, ThreadPoolExecutor(CALLERS) as callers:
            answers = list(callers.map(lambda one: client.classify([one])[0].labels[0].name, examples))
        right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
        speeds = throughput(bundle, server, list(examples))
    return {"served": right / len(labels), "served_variant": VARIANT, **speeds}


def throughput(
    bundle: Path, server: ServerProcess, examples: list[Any], *, sizes: Sequence[int] = SIZES, seconds: float = SECONDS
) -> dict[str, Any]:
    """Examples per second of a server under load from another process, and of the bare session, in turns.

    The callers share the CPUs with the server, the bare session has them to itself.
    """
    examples *= -(-CALLERS * max(SIZES) // len(examples))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "examples.pickle"
        file.write_bytes(pickle.dumps(examples))
        shared = {"examples": str(file)}
        bare = {"kind": "bare", "bundle": str(bundle), "threads": available_cpus(), "size": CALLERS, **shared}
        jobs = {"bare": bare}
        for size in sizes:
            jobs[f"{size} per request"] = {
                "kind": "callers", "server": server.address, "callers": CALLERS, "size": size, **shared
            }  # fmt: skip
        workers = {name: stack.enter_context(WorkerProcess(WORKER, job)) for name, job in jobs.items()}
        for worker in workers.values():
            worker.wait_until_ready()
        rates: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(ROUNDS):
            for name, worker in workers.items():
                with standing_still([server] if name == "bare" else []):
                    rates[name].append(worker.ask("run", str(seconds))["rate"])
    over = {
        name: round(statistics.median(one / other for one, other in zip(of, rates["bare"], strict=True)), 3)
        for name, of in rates.items()
        if name != "bare"
    }
    return {
        "examples_per_second": {name: round(statistics.median(of), 1) for name, of in rates.items()},
        "served_over_bare": over,
    }


def iris_by_estimator(folder: Path) -> dict[str, Any]:
    """The tutorial: a network of two layers on the four columns, the rows of the problem's own splits."""
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    import t2tdeploy as package

    table = load_iris()
    rows = train_test_split(table.data, table.target, test_size=0.2, stratify=table.target, random_state=0)
    known, asked = (dict(zip(table.feature_names, of.T, strict=True)) for of in rows[:2])
    begun = time.perf_counter()
    estimator = package.Estimator("dnn_classifier", folder / "estimator", hparams="dnn_iris")
    estimator.train(package.input_fn(known, rows[2]))
    seconds = time.perf_counter() - begun
    accuracy = estimator.evaluate(package.input_fn(asked, rows[3]))["accuracy"]
    return {"test_accuracy": accuracy, "training_seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join((*ROADS, "large")), help="a part [%(default)s]")
    parser.add_argument("--sst2", type=Path, help="folder with SST-2's files [download them]")
    arguments = parser.parse_args()
    sst2 = ["--source-dir", str(arguments.sst2)] if arguments.sst2 else []
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["T2TDEPLOY_CACHE"] = f"{folder}/cache"  # every training graph is built, as on the first day
        for name in [name for name in arguments.only.split(",") if name in ROADS]:
            result[name] = travel(ROADS[name], Path(folder), sst2 if name == "sst2" else [])
        if "iris" in result:
            result["iris"]["estimator"] = iris_by_estimator(Path(folder))
        if "large" in arguments.only.split(","):
            result["large"] = large(Path(folder) / "large", sst2)
    last = {name: one["test_accuracy"] for name, one in result.items() if name in ROADS}
    served = {name: result[name]["served"] for name in last}
    publish("classify", result, packages=("torch", "onnxruntime", "scikit-learn"), last_line={**last, "served": served})


if __name__ == "__main__":
    main()
