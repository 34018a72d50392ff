"""One decoder in a process of its own, which translates when told to. decode_vs_ctranslate2.py starts it.

    python benchmarks/decode_worker.py JOB

JOB is a `decode_vs_ctranslate2.Job` as JSON. Standard input has a command per line, standard output one JSON object for
each:

    run GROUP      translates each batch of the group; seconds and target tokens of each
    answers GROUP  the same, and gives ids and scores
    memory         bytes in RAM now, and the most so far
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from decode_backends import BACKENDS
from training_worker import resident_bytes
from worker_process import answers


class Group(NamedTuple):
    """Batches of source ids with EOS. `length`: every translation has exactly so many tokens; None: its own."""

    batches: list[list[list[int]]]
    length: int | None


def main() -> None:
    stream = answers()
    job = json.loads(sys.argv[1])
    groups = {name: Group(**group) for name, group in json.loads(Path(job["groups"]).read_text()).items()}

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=stream, flush=True)

    try:
        before = resident_bytes("VmRSS")
        begun = time.perf_counter()
        backend = BACKENDS[job["backend"]](Path(job["model"]), job["precision"], job["threads"], job["alpha"])
        answer({"load_s": time.perf_counter() - begun, "model_bytes": resident_bytes("VmRSS") - before})
    except Exception as error:  # whatever a library raises: the reason belongs into the table
        answer({"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
        return
    for line in sys.stdin:
        match line.split():
            case ["run", name]:
                answer(_run(backend, groups[name], keep=False))
            case ["answers", name]:
                answer(_run(backend, groups[name], keep=True))
            case ["memory"]:
                answer({"now_bytes": resident_bytes("VmRSS"), "peak_bytes": resident_bytes()})


def _run(backend: Any, group: Group, *, keep: bool) -> dict[str, Any]:
    seconds, tokens, kept = [], [], []
    for batch in group.batches:
        begun = time.perf_counter()
        found = backend(batch, group.length)
        seconds.append(time.perf_counter() - begun)
        tokens.append(sum(len(ids) for ids, _ in found))
        kept += [{"ids": ids, "score": score} for ids, score in found]
    return {"seconds": seconds, "tokens": tokens, **({"answers": kept} if keep else {})}


if __name__ == "__main__":
    main()
