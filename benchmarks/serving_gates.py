"""What a server has to stand: overload, SIGTERM, reload, time. Each gate says what it measured, and `passed`.

Every gate has a server process of its own, and is driven from this one.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from serving_compare import slope
from serving_process import ServerProcess, serve_command

from t2tdeploy.load_testing.generator import Target, measure
from t2tdeploy.load_testing.plan import ClosedLoop, OpenLoop, Plan, Shape, request_messages
from t2tdeploy.load_testing.tally import Measured, Outcome
from t2tdeploy.serving.health import health_of

GOODPUT_SHARE = 0.9
MEMORY_SHARE = 1.05
MEGABYTE = 2**20
CAPACITY_CALLERS = 128
ADDRESS = re.compile(r"ipv4:\S+")


@dataclass(frozen=True)
class Gates:
    """What the gates run on.

    Args:
        seconds: of each measurement.
        deadline: seconds, of requests under overload.
        folder: for copies of the bundle.
        options: of the server.
    """

    bundle: Path
    sources: Sequence[str]
    threads: int
    seconds: float
    deadline: float
    folder: Path
    say: Callable[[str], None]

    def server(self, **options: Any) -> ServerProcess:
        return ServerProcess(serve_command(self.bundle, threads=self.threads, **options))


def put(
    server: ServerProcess, gates: Gates, shape: Shape, *, ended: list[Outcome] | None = None, **plan: Any
) -> Measured:
    """A load on a server, one sentence per request."""
    return asyncio.run(put_async(server, gates, shape, ended=ended, **plan))


async def put_async(
    server: ServerProcess, gates: Gates, shape: Shape, *, ended: list[Outcome] | None = None, **plan: Any
) -> Measured:
    settings = Plan(**{"duration": gates.seconds, "warm_up": 1.0, "deadline": 60.0, "connections": 4, **plan})
    messages = request_messages(gates.sources, 1)
    async with Target(server.address, connections=settings.connections, deadline=settings.deadline) as target:

        async def ask(message: bytes, due: float) -> Outcome:
            outcome = await target.ask(message, due)
            if ended is not None:
                ended.append(outcome)
            return outcome

        return await measure(ask, messages, shape, settings)


def capacity(server: ServerProcess, gates: Gates) -> float:
    """Requests per second that the server answers when there is always work."""
    ended: list[Outcome] = []
    measured = put(server, gates, ClosedLoop(CAPACITY_CALLERS), ended=ended)
    begin, end = measured.tally.begin, measured.tally.end
    return slope([one.ended for one in ended if one.status == "OK" and begin <= one.ended <= end])


def overload(gates: Gates, factors: Sequence[float] = (2, 5)) -> dict[str, Any]:
    """More than it can do: what it answers in time hardly falls, and no answer comes late."""
    with gates.server() as server:
        peak = capacity(server, gates)
        before, loads, passed = server.resident_bytes(), [], True
        for factor in factors:
            gates.say(f"overload: {factor:g} × {peak:.1f} requests/s")
            ended: list[Outcome] = []
            measured = put(
                server, gates, OpenLoop(factor * peak), ended=ended, deadline=gates.deadline, warm_up=gates.deadline
            )
            begin, end = measured.tally.begin, measured.tally.end
            good = [one.ended for one in ended if one.status == "OK" and one.ended - one.due <= gates.deadline]
            goodput = len([moment for moment in good if begin <= moment <= end]) / measured.seconds
            p99, slowest = (measured.tally.latency.percentile(share) for share in (0.99, 1.0))
            held = goodput >= GOODPUT_SHARE * peak and (p99 is None or p99 <= gates.deadline + 1)
            passed = passed and held
            loads.append({
                "factor": factor, "rate": round(factor * peak, 2), "goodput": round(goodput, 2),
                "goodput_over_peak": round(goodput / peak, 3), "statuses": dict(measured.tally.statuses),
                "p99_s_of_answered": p99 and round(p99, 3), "max_s_of_answered": slowest and round(slowest, 3),
                "generator_cpus": round(measured.cpu_seconds / measured.seconds, 2), "passed": held,
            })  # fmt: skip
        after = server.resident_bytes()
        status, stopped = server.stop()
        tracebacks = server.log.count("Traceback")
    flat = after <= MEMORY_SHARE * before + 50 * MEGABYTE
    return {
        "capacity": round(peak, 2), "deadline_s": gates.deadline, "loads": loads,
        "memory_mib": [round(before / MEGABYTE), round(after / MEGABYTE)],
        "unfinished": stopped["unfinished"], "tracebacks_in_log": tracebacks,
        "passed": passed and flat and status == 0 and stopped["unfinished"] == 0 and tracebacks == 0,
    }  # fmt: skip


def sigterm(gates: Gates) -> dict[str, Any]:
    """SIGTERM while many callers wait: whoever was accepted is answered, and all others hear UNAVAILABLE.

    Or CANCELLED: gRPC's word for calls that reach a port which is closing, without asking the server.
    """
    ended: list[Outcome] = []

    async def run(server: ServerProcess) -> None:
        load = asyncio.create_task(
            put_async(server, gates, ClosedLoop(CAPACITY_CALLERS), ended=ended, duration=gates.seconds, warm_up=0)
        )
        await asyncio.sleep(gates.seconds / 2)
        server.ask_to_stop()
        await load

    with gates.server() as server:
        asyncio.run(run(server))
        status, stopped = server.stop()
    answered = sum(one.status == "OK" for one in ended)
    others = Counter(f"{one.status}: {ADDRESS.sub('…', one.words)}" for one in ended if one.status != "OK")
    lost = stopped["answers"].get("OK", 0) - answered
    return {
        "answered": answered, "accepted_but_lost": lost + stopped["unfinished"],
        "refused": len(ended) - answered, "words": dict(others.most_common(10)), "exit_status": status,
        "passed": lost == 0 and stopped["unfinished"] == 0 and status == 0
        and {one.status for one in ended} <= {"OK", "UNAVAILABLE", "CANCELLED"},
    }  # fmt: skip


def reload(gates: Gates, times: int = 3) -> dict[str, Any]:
    """New versions come and take the place of the old ones while requests come at half of capacity: no error."""
    repository = gates.folder / "repository"
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(gates.bundle, repository / "model" / "1")
    command = ["-m", "t2tdeploy", "serve", "--repository", repository, "--port", "0", "--json", "--poll", "0.2"]
    loaded: list[float] = []

    async def run(server: ServerProcess, rate: float) -> Measured:
        seconds = gates.seconds * (times + 1)
        load = asyncio.create_task(put_async(server, gates, OpenLoop(rate), duration=seconds, warm_up=0))
        for number in range(2, 2 + times):
            await asyncio.sleep(gates.seconds / 2)
            begun = time.monotonic()
            await asyncio.to_thread(add_version, gates.bundle, repository / "model" / str(number))
            await asyncio.to_thread(server.wait_for, "loaded", 60.0)
            loaded.append(round(time.monotonic() - begun, 2))
        return await load

    with ServerProcess([*command, "--threads", str(gates.threads)]) as server:
        rate = 0.5 * capacity(server, gates)
        measured = asyncio.run(run(server, rate))
        status, _ = server.stop()
    errors = measured.tally.total - measured.tally.statuses["OK"]
    return {
        "reloads": len(loaded), "seconds_until_loaded": loaded, "requests": measured.tally.total, "errors": errors,
        "words": dict(measured.tally.words), "latency": measured.tally.latency.summary(),
        "passed": errors == 0 and len(loaded) == times and status == 0,
    }  # fmt: skip


def add_version(bundle: Path, version: Path) -> None:
    """A copy of the bundle that appears whole."""
    hidden = version.with_name(f".{version.name}")
    shutil.copytree(bundle, hidden)
    os.replace(hidden, version)  # noqa: PTH105  # a folder


def soak(gates: Gates, seconds: float) -> dict[str, Any]:
    """Hours of everyday load, deadlines and cancelled calls among it: memory does not grow.

    Before the time begins, a minute of twice as much as the server can do: arenas are as large as the largest batches
    were, and of those everyday load has one every few minutes. The slope is fitted from when a third of the time has
    passed; before, caches fill.
    """
    samples: list[tuple[float, int]] = []

    async def run(server: ServerProcess, rate: float) -> tuple[Measured, int]:
        load = asyncio.create_task(put_async(server, gates, OpenLoop(rate), duration=seconds, warm_up=0, deadline=5.0))
        rude = asyncio.create_task(cancel_calls(server, gates, load))
        begun = time.monotonic()
        while not load.done():
            samples.append((time.monotonic() - begun, server.resident_bytes()))
            await asyncio.sleep(max(0.2, seconds / 2000))
        return await load, await rude

    with gates.server() as server:
        most = capacity(server, gates)
        put(server, gates, OpenLoop(2 * most), duration=min(60.0, seconds / 10), warm_up=0, deadline=5.0)
        measured, cancelled = asyncio.run(run(server, 0.6 * most))
        status, stopped = server.stop()
    settled = [(moment, size) for moment, size in samples if moment > seconds / 3]
    moments, sizes = np.array(settled).T
    per_hour = float(np.polyfit(moments, sizes, 1)[0]) * 3600 / MEGABYTE
    growth = per_hour * (seconds * 2 / 3) / 3600
    return {
        "seconds": seconds, "capacity": round(most, 1), "rate": round(0.6 * most, 1), "cancelled": cancelled,
        "requests": measured.tally.total, "statuses": dict(measured.tally.statuses),
        "memory_mib": [round(size / MEGABYTE, 1) for size in (sizes[0], sizes[len(sizes) // 2], sizes[-1])],
        "slope_mib_per_hour": round(per_hour, 2), "growth_mib": round(growth, 2),
        "latency": measured.tally.latency.summary(), "unfinished": stopped["unfinished"],
        "passed": growth <= 10 and status == 0 and stopped["unfinished"] == 0 and [*measured.tally.statuses] == ["OK"],
    }  # fmt: skip


async def cancel_calls(server: ServerProcess, gates: Gates, load: asyncio.Task[Measured]) -> int:
    """Clients that lose patience, one after the other, until `load` is done; returns how many did."""
    draw, cancelled = random.Random(0), 0
    messages = request_messages(gates.sources, 8)
    async with Target(server.address, deadline=30.0) as target:
        loop = asyncio.get_running_loop()
        while not load.done():
            call = asyncio.create_task(target.ask(draw.choice(messages), loop.time()))
            await asyncio.sleep(draw.uniform(0, 0.2))
            cancelled += call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await asyncio.sleep(draw.uniform(0, 1.0))
    return cancelled


def is_well(server: ServerProcess, gates: Gates) -> dict[str, Any]:
    """Whether a server is live and answers, with nothing waiting before it."""
    outcomes: list[Outcome] = []
    put(server, gates, ClosedLoop(1), ended=outcomes, duration=None, requests=5, warm_up=0)
    return {
        "health": health_of(server.address, timeout=10.0),
        "answered": sum(one.status == "OK" for one in outcomes),
        "queue_ms": round(1000 * max((one.queue for one in outcomes), default=0.0), 2),
    }
