"""What benchmarks/classify.py compares, each in a process of its own: callers of a server, and the bare session.

Commands: `run SECONDS`, of which the first quarter is not counted. The answer is examples per second.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

from worker_process import answers


class Callers:
    """So many callers, each of which sends a request of `size` examples when it has the answer to its last."""

    def __init__(self, examples: list[Any], *, server: str, callers: int, size: int) -> None:
        from t2tdeploy.serving.classification_messages import write_classify_request

        self._server, self._callers, self._size = server, callers, size
        parts = [examples[start : start + size] for start in range(0, len(examples) - size + 1, size)]
        self._messages = [write_classify_request(part, top_k=1, truncate=False).SerializeToString() for part in parts]

    def run(self, seconds: float) -> float:
        return asyncio.run(self._run(seconds))

    async def _run(self, seconds: float) -> float:
        import grpc

        messages, ended = itertools.cycle(self._messages), []
        async with grpc.aio.insecure_channel(self._server) as channel:
            call = channel.unary_unary("/t2tdeploy.serving.v1.ClassificationService/Classify")
            begun = time.perf_counter()

            async def caller() -> None:
                while time.perf_counter() < begun + seconds:
                    await call(next(messages), timeout=60)
                    ended.append(time.perf_counter())

            await asyncio.gather(*(caller() for _ in range(self._callers)))
        counted = [moment for moment in ended if begun + seconds / 4 <= moment <= begun + seconds]
        return len(counted) * self._size / (seconds * 3 / 4)


class Bare:
    """The session in a loop, in batches of `size`, examples in and classes out."""

    def __init__(self, examples: list[Any], *, bundle: str, threads: int, size: int) -> None:
        from t2tdeploy.bundle import load_bundle
        from t2tdeploy.classifier import Classifier

        self._classifier = Classifier(load_bundle(Path(bundle)), threads=threads)
        self._parts = [examples[start : start + size] for start in range(0, len(examples) - size + 1, size)]

    def run(self, seconds: float) -> float:
        parts, done, begun = itertools.cycle(self._parts), 0, time.perf_counter()
        counting_from: float | None = None
        while (now := time.perf_counter()) < begun + seconds:
            if counting_from is None and now >= begun + seconds / 4:
                counting_from, done = now, 0
            done += len(self._classifier.classify(next(parts)))
        return done / (time.perf_counter() - (counting_from or begun))


def main() -> None:
    stream = answers()
    job = json.loads(sys.argv[1])
    examples = pickle.loads(Path(job.pop("examples")).read_bytes())  # written by the benchmark itself
    worker = {"callers": Callers, "bare": Bare}[job.pop("kind")](examples, **job)
    print(json.dumps({"ready": True}), file=stream, flush=True)
    for line in sys.stdin:
        print(json.dumps({"rate": worker.run(float(line.split()[1]))}), file=stream, flush=True)


if __name__ == "__main__":
    main()
