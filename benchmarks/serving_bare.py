"""The bare session: a program that calls `Translator` in a loop, in a process of its own. serving_compare.py starts it.

    python benchmarks/serving_bare.py '{"bundle": …, "threads": …, "sources": FILE}'

Standard input has a command per line, standard output one JSON object for each:

    run START WINDOW BATCH SORTED COUNT SECONDS

translates the sentences in turn, from number START on: whole windows until there are COUNT sentences or SECONDS have
passed. WINDOW of them are at hand at a time, as many as a server has under way; they are sorted by length (SORTED 1) or
not (0), and translated in batches of BATCH. Text in, text out: tokenizers included.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from worker_process import answers

from t2tdeploy.bundle import load_bundle
from t2tdeploy.translator import BUNDLE_DEFAULTS, Translator


class Loop:
    """The program."""

    def __init__(self, translator: Translator, sources: list[str]) -> None:
        self._translator, self._sources = translator, sources
        self._key = translator.search_key(BUNDLE_DEFAULTS)

    def run(self, start: int, window: int, batch: int, in_order: bool, count: int, seconds: float) -> dict[str, Any]:
        """Whole windows; the latency of a sentence counts from when its window was at hand."""
        begun, cpu = time.perf_counter(), time.process_time()
        latencies: list[float] = []
        sentences = tokens = 0
        while sentences < count and (now := time.perf_counter()) - begun < seconds:
            places = range(start + sentences, start + sentences + window)
            at_hand = self._translator.encode([self._sources[place % len(self._sources)] for place in places])
            if in_order:
                at_hand.sort(key=lambda sentence: len(sentence.ids))
            for first in range(0, window, batch):
                found = self._translator.search(at_hand[first : first + batch], self._key)
                tokens += sum(one[0].tokens for one in found)
                latencies += [time.perf_counter() - now] * len(found)
            sentences += window
        return {
            "sentences": sentences,
            "tokens": tokens,
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
            "latencies": latencies,
        }


def main() -> None:
    stream = answers()
    job = json.loads(sys.argv[1])

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=stream, flush=True)

    translator = Translator(load_bundle(Path(job["bundle"])), threads=job["threads"])
    translator.warm_up()
    loop = Loop(translator, Path(job["sources"]).read_text(encoding="utf-8").splitlines())
    answer({"ready": True})
    for line in sys.stdin:
        _, start, window, batch, in_order, count, seconds = line.split()
        answer(loop.run(int(start), int(window), int(batch), in_order == "1", int(count), float(seconds)))


if __name__ == "__main__":
    main()
