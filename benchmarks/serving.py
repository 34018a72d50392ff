"""The server's gates, and the server beside others: every number from a real `t2tdeploy serve`, asked by this process.

    python benchmarks/serving.py --bundle BUNDLE --input SENTENCES    # all; results/serving.{json,png}: half an hour
    python benchmarks/serving.py --quick                              # the comparison in short, no results: 3 minutes
    python benchmarks/serving.py --only soak --soak 3600              # a long form; other results stay as they are
    python benchmarks/serving.py --only fuzz,kills --fuzz 100000 --kill 1000
    python benchmarks/serving.py --only overload --bundle LARGE --apart large   # kept as overload_large

Without --bundle: demo/bundle, which `make demo` makes; without that one, a model of the same kind is trained for a
minute. Without --input: the dev split of the data that the bundle was trained on.

compare     our server, a gRPC server that runs each request alone, LitServe, and the bare session: sentences per
            second and latencies with 1, 8 and 64 callers (serving_compare.py)
overload    2, 3 and 5 times what it can do: how much is answered in time (serving_gates.py). overload_large is of
            Multi30k by transformer_multi30k with the sizes of transformer_base (num_encoder_layers=6,
            num_decoder_layers=6,hidden_size=512,filter_size=2048,num_heads=8), exported after 250 steps
sigterm     SIGTERM under load: is anything accepted lost?
reload      new versions under load: is there an error?
soak        memory over time, with deadlines and cancelled calls
kills       clients killed in the middle of their requests (serving_hostile.py)
limits      requests beyond every limit, idle connections
fuzz        malformed requests to every service of the server

The load generator runs on the same CPUs as the server; `generator_cpus` says how much of them it used. The last line
is one JSON object: our throughput over the bare session's, the obvious server's and LitServe's with 64 callers, and how
much longer the median request of a single caller takes than a call of the bare session.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import serving_gates
import serving_hostile
from common import RESULTS, publish
from serving_compare import Setting, compare
from serving_gates import Gates
from serving_plot import plot

from t2tdeploy.bundle import load_bundle
from t2tdeploy.runtime import available_cpus

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("grpcio", "litserve", "aiohttp", "onnxruntime", "protobuf")
NAMES = ("compare", "overload", "sigterm", "reload", "kills", "limits", "fuzz", "soak")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def some_bundle(folder: Path) -> Path:
    """What `make demo` made, or a model of the same kind that is trained here, for a minute."""
    demo = ROOT / "demo" / "bundle"
    if demo.is_dir():
        return demo
    say("training a small model on the embedded dates (make demo, or --bundle, saves that)")
    problem, data, run = "translate_dates_ende", folder / "data", folder / "run"
    for words in (
        ["datagen", "--problem", problem, "--data-dir", data],
        ["train", "--problem", problem, "--model", "transformer", "--hparams-set", "transformer_tiny", "--data-dir",
         data, "--output-dir", run, "--train-steps", "200", "--eval-every", "200", "--eval-sentences", "20",
         "--engine", "torch"],
        ["export", "--output-dir", run, "--bundle", folder / "bundle"],
    ):  # fmt: skip
        command = [sys.executable, "-m", "t2tdeploy", *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "bundle"


def sentences(bundle: Path, path: Path | None) -> list[str]:
    """Lines of a file, or of the dev split that the bundle's provenance names."""
    if path is not None:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    from t2tdeploy.cli.corpora import data_of

    return data_of(load_bundle(bundle)).split("dev").texts("inputs")[:1000]


def gate_runs(options: argparse.Namespace, gates: Gates) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name -> what to run."""
    return {
        "overload": lambda: serving_gates.overload(gates, (2, 3, 5)),
        "sigterm": lambda: serving_gates.sigterm(gates),
        "reload": lambda: serving_gates.reload(gates),
        "soak": lambda: serving_gates.soak(gates, options.soak),
        "kills": lambda: serving_hostile.kills(gates, options.kill),
        "limits": lambda: serving_hostile.limits(gates),
        "fuzz": lambda: serving_hostile.fuzz(gates, options.fuzz),
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What was asked for, by name."""
    bundle = (options.bundle or some_bundle(folder)).resolve()
    sources, threads = sentences(bundle, options.input), options.threads
    manifest = load_bundle(bundle)
    of = {"bundle": manifest.manifest.name, "version": manifest.version, "sentences": len(sources)}
    result: dict[str, Any] = {}
    if "compare" in options.only:
        setting = Setting(
            bundle, sources, threads, options.seconds, warm_up=1.0, rounds=options.rounds,
            workers=options.naive_workers, batch_timeout=options.litserve_timeout,
        )  # fmt: skip
        result["compare"] = {**of, **compare(setting, folder, say)}
    gates = Gates(bundle, sources, threads, options.gate_seconds, options.deadline, folder, say)
    for name, measure in gate_runs(options, gates).items():
        if name in options.only:
            say(f"{name} …")
            found = measure()
            key = f"{name}_{options.apart}" if options.apart else name
            result[key] = {**of, **found, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
            say(f"{name}: {'passed' if found['passed'] else 'FAILED'}")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the comparison alone, in short; writes no results")
    parser.add_argument("--bundle", type=Path, help="what export wrote [demo/bundle, or one that is trained now]")
    parser.add_argument("--input", type=Path, help="source sentences, one a line [the bundle's dev split]")
    parser.add_argument("--only", default=",".join(NAMES), help="of: %(default)s")
    parser.add_argument("--apart", metavar="LABEL", help="keep the results of gates beside those of another bundle")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="of the session [%(default)s]")
    parser.add_argument("--seconds", type=float, help="of a measurement of the comparison [10; --quick: 2]")
    parser.add_argument("--rounds", type=int, help="of the comparison [5; --quick: 2]")
    parser.add_argument("--naive-workers", type=int, default=2, help="threads of the obvious server [%(default)s]")
    parser.add_argument("--litserve-timeout", type=float, default=0.002, help="its batch_timeout, s [%(default)s]")
    parser.add_argument("--gate-seconds", type=float, default=30.0, help="of a measurement of a gate [%(default)s]")
    parser.add_argument("--deadline", type=float, default=2.0, help="of requests under overload, s [%(default)s]")
    parser.add_argument("--soak", type=float, default=180.0, help="seconds [%(default)s]")
    parser.add_argument("--fuzz", type=int, default=5000, help="requests to each service [%(default)s]")
    parser.add_argument("--kill", type=int, default=100, help="clients [%(default)s]")
    options = parser.parse_args()
    options.only = ["compare"] if options.quick else options.only.split(",")
    if unknown := set(options.only) - set(NAMES):
        parser.error(f"--only: no such gate: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    options.seconds = options.seconds or (2.0 if options.quick else 10.0)
    options.rounds = options.rounds or (2 if options.quick else 5)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end with this process
    with tempfile.TemporaryDirectory() as temporary:
        result = run(options, Path(temporary))
    passed = {name: found["passed"] for name, found in result.items() if "passed" in found}
    line = result["compare"]["summary"] if "compare" in result else passed
    if options.quick:
        print(json.dumps(line))
        return 0
    path = RESULTS / "serving.json"
    known = json.loads(path.read_text(encoding="utf-8"))["result"] if path.is_file() else {}
    publish("serving", {**known, **result}, packages=PACKAGES, last_line=line)
    plot({**known, **result}, RESULTS / "serving.png")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
