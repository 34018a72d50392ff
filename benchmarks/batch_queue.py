"""What the batch queue costs the event loop of a server: adding a sentence, and taking a batch, while 2048 wait.

    python benchmarks/batch_queue.py

Lengths are log-normal, as those of sentences are: a median of 20 tokens. Every sentence has a deadline, as a client
with a timeout gives it. Each batch that is taken is replaced, so that the queue stays full.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from common import publish

from t2tdeploy.serving.batcher import BatchLimits, BatchQueue, Item

WAITING = 2048
BATCH = 64
ROUNDS = 400
CASES = {
    "one key": {"keys": 1, "priorities": 1, "delay": 0.0},
    "16 keys, 5 priorities": {"keys": 16, "priorities": 5, "delay": 0.0},
    "16 keys, a queue delay": {"keys": 16, "priorities": 1, "delay": 0.005},
}


def measure(keys: int, priorities: int, delay: float) -> dict[str, float]:
    """Microseconds of CPU for a take, with what expires before it, and for an add of one sentence; medians."""
    chance = random.Random(1)
    limits = BatchLimits(
        max_batch_size=BATCH,
        max_batch_tokens=32_768,
        max_queue_delay=delay,
        max_queue_sentences=WAITING,
        max_queue_tokens=1_000_000,
    )

    def sentence() -> Item[int, None]:
        length = max(3, int(chance.lognormvariate(3, 0.5)))
        until = now + chance.uniform(60, 120)
        priority = chance.randrange(priorities) - priorities // 2
        key = chance.randrange(keys)
        return Item(None, length, 4 * (2 * length + 50), key, until, priority=priority)

    now, queue = 0.0, BatchQueue[int, None](limits)
    queue.add([sentence() for _ in range(WAITING)], now)
    takes, adds, sizes = [], [], []
    for _ in range(ROUNDS):
        now += 0.05
        started = time.thread_time()
        queue.expire(now)
        batch = queue.take(now)
        takes.append(time.thread_time() - started)
        fresh = [sentence() for _ in batch]
        started = time.thread_time()
        for one in fresh:
            queue.add([one], now)
        adds.append((time.thread_time() - started) / len(fresh))
        sizes.append(len(batch))
    return {
        "take_us": round(statistics.median(takes) * 1e6, 1),
        "add_us": round(statistics.median(adds) * 1e6, 2),
        "mean_batch": round(statistics.mean(sizes), 1),
    }


def main() -> None:
    result: dict[str, Any] = {"waiting": WAITING, "max_batch_size": BATCH, "rounds": ROUNDS}
    result["cases"] = {name: measure(**case) for name, case in CASES.items()}
    publish("batch_queue", result, packages=())


if __name__ == "__main__":
    main()
