"""The same session behind some fronts: our server, the obvious gRPC server, LitServe, and bare loops.

All live at the same time and take turns, so that what else the machine does meets them alike; who has no turn stands
still. A ratio is the median over the rounds of the ratio within a round. Each is asked the same sentences by so many
callers, from this process, which shares the CPUs with them: how much it used is told, and the bare loop has no such
company.

The bare loop is what a program would do that has as many sentences at hand as callers are waiting: it sorts them by
length and translates them in batches of the size that turned out fastest. A server cannot know more. Beside it, the
same in the order of arrival; and what all CPUs can do: a loop of one thread for each, which share the callers. LitServe
has one worker with all threads, or a worker of one thread for each CPU; the faster one counts.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from serving_process import ServerProcess, serve_command, standing_still
from worker_process import WorkerProcess

from t2tdeploy.load_testing.generator import Target, measure
from t2tdeploy.load_testing.histogram import Histogram
from t2tdeploy.load_testing.plan import ClosedLoop, Plan, request_messages
from t2tdeploy.load_testing.tally import Outcome

HERE = Path(__file__).parent
CONCURRENCY = (1, 8, 64)
BATCHES = {1: (1,), 8: (8, 4), 64: (64, 32, 16)}
OURS, NAIVE, OTHER, BARE, ARRIVAL = "t2tdeploy", "grpcio alone", "litserve", "bare", "bare, in order of arrival"
OTHER_EACH, BARE_EACH = "litserve, a worker per CPU", "bare, a loop per CPU"
OTHERS = (OTHER, OTHER_EACH)
SERVERS = (OURS, NAIVE, *OTHERS)
FOREVER = 10**9
ANSWERS_OF_A_CALLER = 4
DEADLINE_SECONDS = 120.0


@dataclass
class Cell:
    """What one contestant did at one concurrency, round by round.

    Args:
        rates: sentences per second.
        p50_ms: of each round.
        cpus: of its own process, and of the load generator.
        cpu_ms: of its own process, for each sentence.
    """

    rates: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    latency: Histogram = field(default_factory=Histogram)
    cpus: list[tuple[float, float]] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """For the results."""
        return {
            "sentences_per_second": round(statistics.median(self.rates), 2),
            "sentences_per_second_of_rounds": [round(rate, 2) for rate in self.rates],
            "latency": self.latency.summary(),
            "p50_ms_of_rounds": [round(value, 2) for value in self.p50_ms],
            "own_cpu_ms_per_sentence": round(statistics.median(self.cpu_ms), 2),
            "own_cpus": round(statistics.median(own for own, _ in self.cpus), 2),
            "generator_cpus": round(statistics.median(other for _, other in self.cpus), 2),
        }


@dataclass(frozen=True)
class Setting:
    """What is compared on.

    Args:
        seconds: of a measurement.
        warm_up: seconds before each.
        workers: of the obvious server's thread pool.
        batch_timeout: LitServe's, in seconds.
    """

    bundle: Path
    sources: Sequence[str]
    threads: int
    seconds: float
    warm_up: float
    rounds: int
    workers: int
    batch_timeout: float


class Contestants:
    """All processes, and how each is asked."""

    def __init__(self, setting: Setting, folder: Path, stack: ExitStack) -> None:
        self.setting = setting
        sources = folder / "sources.txt"
        sources.write_text("\n".join(setting.sources), encoding="utf-8")
        job = {"bundle": str(setting.bundle), "sources": str(sources)}
        jobs = [{**job, "threads": setting.threads}, *({**job, "threads": 1} for _ in range(setting.threads))]
        self.bare, *self.loops = (
            stack.enter_context(WorkerProcess(HERE / "serving_bare.py", one)) for one in jobs
        )  # fmt: skip
        for worker in (self.bare, *self.loops):
            worker.wait_until_ready()
        litserve = [HERE / "serving_litserve.py", setting.bundle]
        commands = {
            OURS: serve_command(setting.bundle, threads=setting.threads),
            NAIVE: [HERE / "serving_naive.py", setting.bundle, setting.threads, setting.workers],
            OTHER: [*litserve, setting.threads, 1, setting.batch_timeout],
            OTHER_EACH: [*litserve, 1, setting.threads, setting.batch_timeout],
        }
        self.servers = {name: stack.enter_context(ServerProcess(command)) for name, command in commands.items()}
        self._grpc = request_messages(setting.sources, 1)
        self._json = [json.dumps({"source": source}).encode() for source in setting.sources]

    def run_bare(self, concurrency: int, batch: int, in_order: bool, start: int, count: int, seconds: float) -> Any:
        """See serving_bare.py."""
        with standing_still(self.servers.values()):
            return self.bare.ask("run", *map(str, (start, concurrency, batch, int(in_order), count, seconds)))

    def run_loops(self, concurrency: int, batch: int, start: int, seconds: float) -> dict[str, Any]:
        """A loop on each CPU, all at once, with a share of the callers each; their sums."""
        window = max(1, concurrency // len(self.loops))
        words = map(str, (start, window, min(batch, window), 1, FOREVER, seconds))
        with standing_still(self.servers.values()), ThreadPoolExecutor(len(self.loops)) as pool:
            found = list(pool.map(lambda loop, words: loop.ask("run", *words), self.loops, repeat([*words])))
        sums = {name: sum(one[name] for one in found) for name in ("sentences", "cpu_seconds")}
        return {
            **sums,
            "seconds": max(one["seconds"] for one in found),
            "latencies": [latency for one in found for latency in one["latencies"]],
        }

    async def run_server(self, name: str, concurrency: int, start: int, plan: Plan, cell: Cell) -> None:
        """One measurement of a server, added to `cell`."""
        server = self.servers[name]
        messages = self._json if name in OTHERS else self._grpc
        messages = [*messages[start:], *messages[:start]]
        ended: list[float] = []
        async with AsyncExitStack() as stack:
            if name in OTHERS:
                ask = await http_ask(f"http://{server.address}/predict", stack)
            else:
                ask = (await stack.enter_async_context(Target(server.address, deadline=plan.deadline))).ask

            async def noting(message: bytes, due: float) -> Outcome:
                outcome = await ask(message, due)
                ended.append(outcome.ended)
                return outcome

            before = server.cpu_seconds(), asyncio.get_running_loop().time()
            measured = await measure(noting, messages, ClosedLoop(concurrency), plan)
            own_seconds = server.cpu_seconds() - before[0]
            own = own_seconds / (asyncio.get_running_loop().time() - before[1])
        if measured.tally.statuses.keys() != {"OK"}:
            raise RuntimeError(f"{name}: {dict(measured.tally.words)}")
        begin, end = measured.tally.begin, measured.tally.end
        cell.rates.append(slope([moment for moment in ended if begin <= moment <= end]))
        cell.latency += measured.tally.latency
        cell.p50_ms.append(1000 * (measured.tally.latency.percentile(0.5) or 0.0))
        cell.cpus.append((own, measured.cpu_seconds / measured.seconds))
        cell.cpu_ms.append(1000 * own_seconds / len(ended))  # the warm-up and its answers included


async def http_ask(url: str, stack: AsyncExitStack) -> Callable[[bytes, float], Awaitable[Outcome]]:
    """Asks LitServe once it answers."""
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    headers = {"content-type": "application/json"}

    async def ask(message: bytes, due: float) -> Outcome:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        async with session.post(url, data=message, headers=headers) as response:
            content = await response.read()
        status = "OK" if response.status == 200 else f"HTTP {response.status}"
        tokens = json.loads(content)["tokens"] if status == "OK" else 0
        return Outcome(due, sent, loop.time(), status, sentences=1, target_tokens=tokens)

    for _ in range(100):  # the port opens a little after the model is there
        try:
            async with session.get(url):
                return ask
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.1)
    raise RuntimeError(f"nothing answers at {url}")


def slope(moments: Sequence[float]) -> float:
    """Answers per second, by least squares through their running count: answers come in bursts, a batch at a time, and
    counting those of a window would depend on how many bursts it happens to hold."""
    if len(moments) < 2:
        raise RuntimeError("too few answers for a rate: measure longer (--seconds)")
    return float(np.polyfit(np.array(moments) - moments[0], np.arange(len(moments)), 1)[0])


def compare(setting: Setting, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """All rounds; the record for the results."""
    cells = {name: {count: Cell() for count in CONCURRENCY} for name in (*SERVERS, BARE, ARRIVAL, BARE_EACH)}
    with ExitStack() as stack:
        say("compare: starting the servers")
        contestants = Contestants(setting, folder, stack)
        tried = {concurrency: fastest(contestants, concurrency) for concurrency in CONCURRENCY}
        for number in range(setting.rounds):
            for concurrency in CONCURRENCY:
                say(f"compare: round {number + 1} of {setting.rounds}, {concurrency} callers")
                one_round(contestants, cells, concurrency, tried[concurrency][0], number)
    record = {
        "threads": setting.threads,
        "sentences": len(setting.sources),
        "seconds_of_a_measurement": setting.seconds,
        "rounds": setting.rounds,
        "bare_sentences_per_second_by_batch": {count: rates for count, (_, rates) in tried.items()},
        "contestants": {
            name: {count: cell.record() for count, cell in of.items() if cell.rates} for name, of in cells.items()
        },
        "ratios": {count: ratios(cells, count) for count in CONCURRENCY},
    }
    return {**record, "summary": summary(cells)}


@dataclass(frozen=True)
class Bare:
    """How the bare loop is fastest at one concurrency: its size of batches, and sentences per second."""

    batch: int
    rate: float


def fastest(contestants: Contestants, concurrency: int) -> tuple[Bare, dict[int, float]]:
    """Tries the sizes; the best, and the speed of each."""
    rates = {}
    for batch in BATCHES[concurrency]:
        found = contestants.run_bare(concurrency, batch, True, 0, FOREVER, contestants.setting.seconds / 2)
        rates[batch] = round(found["sentences"] / found["seconds"], 2)
    best = max(rates, key=lambda batch: rates[batch])
    return Bare(best, rates[best]), rates


def one_round(
    contestants: Contestants, cells: dict[str, dict[int, Cell]], concurrency: int, bare: Bare, number: int
) -> None:
    """Every contestant once, another one first each round; with one caller, all translate the same sentences.

    A measurement is long enough for each caller to be answered some times: answers come a batch at a time.
    """
    setting = contestants.setting
    start = number * 97 % len(setting.sources)
    seconds = max(setting.seconds, ANSWERS_OF_A_CALLER * concurrency / bare.rate)
    count = max(10, round(setting.seconds * bare.rate)) if concurrency == 1 else FOREVER
    plan = Plan(
        duration=None if concurrency == 1 else seconds,
        requests=count if concurrency == 1 else None,
        warm_up=0.0 if concurrency == 1 else setting.warm_up,
        deadline=DEADLINE_SECONDS,
    )
    names = [BARE, *SERVERS, *([ARRIVAL, BARE_EACH] if concurrency > 1 else [])]
    shift = number % len(names)
    for name in [*names[shift:], *names[:shift]]:
        cell = cells[name][concurrency]
        if name in SERVERS:
            with standing_still(other for key, other in contestants.servers.items() if key != name):
                asyncio.run(contestants.run_server(name, concurrency, start, plan, cell))
            continue
        limit = FOREVER if concurrency == 1 else seconds
        if name == BARE_EACH:
            found = contestants.run_loops(concurrency, bare.batch, start, limit)
        else:
            found = contestants.run_bare(concurrency, bare.batch, name == BARE, start, count, limit)
        cell.rates.append(found["sentences"] / found["seconds"])
        cell.p50_ms.append(1000 * statistics.median(found["latencies"]))
        cell.cpus.append((found["cpu_seconds"] / found["seconds"], 0.0))
        cell.cpu_ms.append(1000 * found["cpu_seconds"] / found["sentences"])
        for latency in found["latencies"]:
            cell.latency.add(latency)


def ratios(cells: dict[str, dict[int, Cell]], concurrency: int) -> dict[str, float]:
    """Our throughput over that of each other contestant: the median over the rounds."""
    ours = cells[OURS][concurrency].rates
    return {
        name: round(statistics.median(a / b for a, b in zip(ours, of[concurrency].rates, strict=True)), 3)
        for name, of in cells.items()
        if name != OURS and of[concurrency].rates
    }


def summary(cells: dict[str, dict[int, Cell]]) -> dict[str, float]:
    """What is printed last."""
    most = max(CONCURRENCY)
    found = ratios(cells, most)
    alone = zip(cells[OURS][1].p50_ms, cells[BARE][1].p50_ms, strict=True)
    return {
        "throughput_over_bare": found[BARE],
        "throughput_over_naive": found[NAIVE],
        "throughput_over_other": min(found[name] for name in OTHERS),
        "p50_minus_bare_ms": round(statistics.median(ours - bare for ours, bare in alone), 2),
    }
