"""Training steps a second of engine ort beside torch, of models that classify; memory of reversible layers.

    python benchmarks/class_engines.py                # three minutes on two cores; writes results/class_engines.json
    python benchmarks/class_engines.py --cases resnet,revnet        # some cases; results of the others stay

A step is `Engine.step`, as training calls it, on random examples of the case's shape. Both engines live in processes of
their own and compute in turns, so that whatever else the machine does hits both; a ratio is the median over the rounds
of the ratio within a round. `t2tdeploy train` keeps freed memory, and so do they (training/allocator.py).

    resnet_digits   the small ResNet of problem image_digits, 64 images of 8 × 8
    resnet          ResNet-32 (resnet_cifar_32), 64 images of 32 × 32
    encoder         transformer_encoder_small, 64 texts of 24 tokens
    revnet          RevNet-110 on engine torch, 128 images of 32 × 32, with and without reversible layers: the most
                    resident bytes of its process, less what it had before its first step

The last line is one JSON object: case -> how many times as fast ort is as torch; revnet: memory, reversible over not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import RESULTS, machine, publish, versions
from training_worker import forget_peak, resident_bytes
from worker_process import WorkerProcess, answers

from t2tdeploy.runtime import available_cpus

# model, its class's place, hparams set and overrides, shape of the input (of text: tokens), examples of a batch
CASES: dict[str, dict[str, Any]] = {
    "resnet_digits": {"model": "resnet.Resnet", "set": "resnet_digits", "shape": [8, 8, 1], "examples": 64},
    "resnet": {"model": "resnet.Resnet", "set": "resnet_cifar_32", "shape": [32, 32, 3], "examples": 64},
    "encoder": {
        "model": "transformer_encoder.TransformerEncoder",
        "set": "transformer_encoder_small",
        "shape": [24],
        "examples": 64,
    },
}
REVNET = {"model": "revnet.Revnet", "set": "revnet_110_cifar", "shape": [32, 32, 3], "examples": 128, "engine": "torch"}
STEPS, ROUNDS, MEMORY_STEPS = 3, 7, 2
VOCABULARY = 8000
NAME, MEMORY = "class_engines", "revnet"
PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy")


def make_engine(job: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An engine with a new model, and a random batch for it."""
    import importlib

    import numpy as np
    import torch

    from t2tdeploy.features import FeatureSpec, Modality
    from t2tdeploy.registry import hparams_sets
    from t2tdeploy.training import engines
    from t2tdeploy.training.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    module, _, name = job["model"].partition(".")
    model_class = getattr(importlib.import_module(f"t2tdeploy.models.{module}"), name)
    random, shape, examples = np.random.default_rng(0), job["shape"], job["examples"]
    classes = tuple(map(str, range(10)))
    if len(shape) == 3:
        inputs = FeatureSpec("inputs", Modality.IMAGE, shape=tuple(shape))
        batch = {"inputs": random.integers(0, 256, (examples, *shape), dtype=np.uint8)}
    else:
        inputs = FeatureSpec("inputs", Modality.SYMBOL, vocabulary="inputs", vocab_size=VOCABULARY)
        batch = {"inputs": random.integers(3, VOCABULARY, (examples, *shape))}
    batch["targets"] = random.integers(0, len(classes), examples)
    features = {"inputs": inputs, "targets": FeatureSpec("targets", Modality.CLASS_LABEL, classes=classes)}
    hparams = hparams_sets.get(job["set"])().override(job.get("hparams", ""))
    model = model_class(hparams, features)
    return engines.make_engine(job["engine"], model, hparams, device=torch.device("cpu")), batch


def work(job: dict[str, Any]) -> None:
    """The process of one engine: answers `run STEPS` with seconds, `memory` with bytes."""
    stream = answers()

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=stream, flush=True)

    begun = time.perf_counter()
    engine, batch = make_engine(job)
    parameters = sum(parameter.numel() for parameter in engine.model.parameters())
    before = resident_bytes("VmRSS")
    since_mark = forget_peak()
    answer({"seconds": time.perf_counter() - begun, "parameters": parameters})
    for line in sys.stdin:
        command, *words = line.split()
        if command == "memory":
            answer({"bytes": resident_bytes() - before, "since_mark": since_mark})
            continue
        begun = time.perf_counter()
        for _ in range(int(words[0])):
            engine.step([batch], learning_rate=1e-4)
        answer({"seconds": time.perf_counter() - begun})


def compare(case: dict[str, Any], *, rounds: int, threads: int) -> dict[str, Any]:
    """Both engines in turns."""
    with ExitStack() as stack:
        workers, started = {}, {}
        for engine in ("ort", "torch"):
            job = {**case, "engine": engine, "threads": threads}
            workers[engine] = stack.enter_context(WorkerProcess(Path(__file__), job))
            started[engine] = workers[engine].wait_until_ready()
            workers[engine].ask("run", "2")
        seconds: dict[str, list[float]] = {engine: [] for engine in workers}
        for number in range(rounds):
            for engine in sorted(workers, reverse=bool(number % 2)):
                workers[engine].ask("run", "1")  # what the other evicted comes back
                seconds[engine].append(workers[engine].ask("run", str(STEPS))["seconds"])
    ratios = [theirs / ours for ours, theirs in zip(seconds["ort"], seconds["torch"], strict=True)]
    return {
        "examples": case["examples"],
        "shape": case["shape"],
        "hparams_set": case["set"],
        "parameters": started["ort"]["parameters"],
        "steps_per_second": {engine: round(STEPS / statistics.median(of), 2) for engine, of in seconds.items()},
        "seconds_to_begin": {engine: round(of["seconds"], 1) for engine, of in started.items()},
        "ort_over_torch": round(statistics.median(ratios), 3),
        "quartiles": [round(ratio, 3) for ratio in statistics.quantiles(ratios, n=4, method="inclusive")[::2]],
        "steps": STEPS * rounds,
    }


def reversible_memory(*, threads: int) -> dict[str, Any]:
    """MiB of a step with and without reversible layers."""
    found = {}
    for reversible in ("true", "false"):
        job = {**REVNET, "hparams": f"reversible={reversible}", "threads": threads}
        with WorkerProcess(Path(__file__), job) as worker:
            worker.wait_until_ready()
            worker.ask("run", str(MEMORY_STEPS))
            memory = worker.ask("memory")
        found[reversible] = {
            "mib": round(memory["bytes"] / 2**20),
            "peak_of": "the steps" if memory["since_mark"] else "the whole process",
        }
    return {
        "examples": REVNET["examples"],
        "shape": REVNET["shape"],
        "hparams_set": REVNET["set"],
        "reversible": found["true"],
        "ordinary": found["false"],
        "memory_ratio": round(found["true"]["mib"] / found["false"]["mib"], 3),
    }


def earlier(threads: int) -> dict[str, Any]:
    """What earlier calls measured on this machine with these versions: cases can be run one by one."""
    try:
        content = json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    same = content["machine"] == machine() and content["packages"] == versions(PACKAGES)
    found: dict[str, Any] = content["result"]["cases"] if same and content["result"]["threads"] == threads else {}
    return found


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        work(json.loads(sys.argv[1]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join([*CASES, MEMORY]), help="some of them: %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=available_cpus())
    options = parser.parse_args()
    chosen = options.cases.split(",")
    if strangers := set(chosen) - {*CASES, MEMORY}:
        parser.error(f"{', '.join(sorted(strangers))}: choose from {', '.join([*CASES, MEMORY])}")
    cases = earlier(options.threads)
    for name in chosen:
        if name == MEMORY:
            cases[name] = reversible_memory(threads=options.threads)
        else:
            cases[name] = compare(CASES[name], rounds=options.rounds, threads=options.threads)
        print(json.dumps({name: cases[name]}), file=sys.stderr, flush=True)
    last_line = {name: case["memory_ratio" if name == MEMORY else "ort_over_torch"] for name, case in cases.items()}
    publish(NAME, {"threads": options.threads, "cases": cases}, packages=PACKAGES, last_line=last_line)


if __name__ == "__main__":
    main()
