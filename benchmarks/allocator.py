"""What keeping freed memory in the process is worth to a CPU training step (t2tdeploy/training/allocator.py).

    python benchmarks/allocator.py

Runs the same steps in two kinds of process, interleaved, with malloc's defaults and with large blocks kept; reports the
medians. Shape: transformer_multi30k, 4096 tokens per batch, vocabulary 6000, float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
from common import publish

ROUNDS, STEPS = 3, 6


def steps(precision: str, keep: bool) -> None:
    """Prints the seconds of each step."""
    import torch

    from t2tdeploy.features import FeatureSpec, Modality
    from t2tdeploy.models.transformer import Transformer
    from t2tdeploy.models.transformer_hparams import transformer_multi30k
    from t2tdeploy.runtime import available_cpus
    from t2tdeploy.training.allocator import keep_freed_memory
    from t2tdeploy.training.torch_engine import TorchEngine

    if keep and not keep_freed_memory():
        sys.exit("this C library has no mallopt")
    torch.set_num_threads(available_cpus())
    torch.manual_seed(0)
    hparams = transformer_multi30k().replace(precision=precision)
    features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", 6000) for name in ("inputs", "targets")}
    engine = TorchEngine(Transformer(hparams, features), hparams)
    generator = np.random.default_rng(0)
    batch = {name: generator.integers(3, 6000, (256, 16)) for name in features}
    for i in range(STEPS + 2):
        start = time.perf_counter()
        engine.step([batch], learning_rate=1e-4)
        if i >= 2:
            print(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps-of", choices=["float32", "bfloat16"], help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps_of:
        steps(options.steps_of, options.keep)
        return
    seconds: dict[str, dict[bool, list[float]]] = {p: {True: [], False: []} for p in ("float32", "bfloat16")}
    for _ in range(ROUNDS):
        for precision, found in seconds.items():
            for keep, times in found.items():
                words = [sys.executable, __file__, "--steps-of", precision, *(["--keep"] if keep else [])]
                out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
                times.extend(map(float, out.split()))
    result = {}
    for precision, found in seconds.items():
        default, kept = statistics.median(found[False]), statistics.median(found[True])
        result[precision] = {
            "default_ms": round(default * 1000, 1),
            "kept_ms": round(kept * 1000, 1),
            "speedup": round(default / kept, 2),
        }
    publish("allocator", result, packages=("torch",))


if __name__ == "__main__":
    main()
