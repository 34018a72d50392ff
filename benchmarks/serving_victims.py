"""Clients that are killed in the middle of a request. serving_hostile.py starts it.

    python benchmarks/serving_victims.py HOST:PORT REQUESTS_FILE KILLS SEED

Forks a process for each, which opens a connection and sends a request; some milliseconds later it gets SIGKILL. Goes on
until so many were killed before their answer came. Prints one JSON object: how many those are, and how many had theirs.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import grpc  # before the fork: importing it takes longer than anything else

from t2tdeploy.serving.messages import SERVICE

MOST_SECONDS = 0.15
TOGETHER = 4
MOST_TRIES = 10


def victim(address: str, message: bytes, pipe: int) -> None:
    """In the child: asks, and says so."""
    channel = grpc.insecure_channel(address)
    call = channel.unary_unary(f"/{SERVICE}/Translate").future(message, timeout=60)
    grpc.channel_ready_future(channel).result(timeout=30)
    os.write(pipe, b"1")
    call.result()
    os.write(pipe, b"2")


def start(address: str, message: bytes) -> tuple[int, int]:
    """A child: process id, and the pipe on which it tells how far it is."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        victim(address, message, writer)
    finally:
        os._exit(0)


def kill(pid: int, reader: int, draw: random.Random) -> bytes:
    """Waits until the child is connected and a moment more; returns how far it came."""
    select.select([reader], [], [], 30)
    time.sleep(draw.uniform(0, MOST_SECONDS))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    told = os.read(reader, 2)
    os.close(reader)
    return told


def main() -> None:
    address, file, kills, seed = sys.argv[1:]
    messages = [bytes.fromhex(line) for line in Path(file).read_text().split()]
    draw = random.Random(int(seed))
    told: list[bytes] = []
    while told.count(b"1") < int(kills) and len(told) < MOST_TRIES * int(kills):
        count = min(TOGETHER, int(kills) - told.count(b"1"))
        children = [start(address, draw.choice(messages)) for _ in range(count)]
        told += [kill(pid, reader, draw) for pid, reader in children]
    print(json.dumps({"killed_mid_request": told.count(b"1"), "answered_before": told.count(b"12")}))


if __name__ == "__main__":
    main()
