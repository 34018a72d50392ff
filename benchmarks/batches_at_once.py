"""What it brings to search two batches at once on a share of the threads each, against one on all of them.

    python benchmarks/batches_at_once.py --bundle BUNDLE --input SENTENCES

All sentences of a file through `Translator.translate`, which runs many batches two at once, and through the same
batches one after the other. Both in one process, in turns; a ratio is the median over the rounds of that within one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import psutil
from common import publish

from t2tdeploy.bundle import load_bundle
from t2tdeploy.runtime import available_cpus
from t2tdeploy.translator import BUNDLE_DEFAULTS, Translator

ROUNDS = 7
BATCHES = (16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="what export wrote")
    parser.add_argument("--input", type=Path, required=True, help="source sentences, one a line")
    options = parser.parse_args()
    sources = [line for line in options.input.read_text(encoding="utf-8").splitlines() if line.strip()]
    bundle = load_bundle(options.bundle)
    batches = {str(size): compare(Translator(bundle, max_batch_size=size), sources) for size in BATCHES}
    model = {"bundle": bundle.manifest.name, "version": bundle.version, "sentences": len(sources)}
    publish(
        "batches_at_once",
        {**model, "threads": available_cpus(), "rounds": ROUNDS, "batches": batches},
        packages=("onnxruntime", "numpy"),
    )


def compare(translator: Translator, sources: list[str]) -> dict[str, float]:
    """Sentences per second of both, their ratio, and what two at once keep in memory beyond one."""
    one_at_a_time(translator, sources)
    before = psutil.Process().memory_info().rss
    two_at_once(translator, sources)  # loads the second session
    grown = psutil.Process().memory_info().rss - before
    rounds = [(one_at_a_time(translator, sources), two_at_once(translator, sources)) for _ in range(ROUNDS)]
    one, two = (len(sources) / statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    return {
        "one_at_a_time": round(one, 1),
        "two_at_once": round(two, 1),
        "ratio": round(statistics.median(first / second for first, second in rounds), 3),
        "memory_mib": round(grown / 2**20),
    }


def one_at_a_time(translator: Translator, sources: list[str]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    key, sentences = translator.search_key(BUNDLE_DEFAULTS), translator.encode(sources)
    for indices in translator.batches(sentences, key):
        translator.search([sentences[index] for index in indices], key)
    return time.perf_counter() - begun


def two_at_once(translator: Translator, sources: list[str]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    translator.translate(sources)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
