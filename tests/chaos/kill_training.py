"""Kills a training run at random moments, starts it again each time, and compares it with a run that nobody killed.

    python tests/chaos/kill_training.py --kills 50 --engine ort

Both runs go through the command line. Each kill (SIGKILL) aims at a phase, at a random moment of it; the summary counts
where the kills hit. Of the killed run it is checked that every start goes on from the newest checkpoint, that no
checkpoint that was announced is lost, and that in the end parameters, moments and random states, the curves, every
evaluation and the checkpoints kept are those of the other run, and nothing half-written is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from t2tdeploy.files import is_leftover
from t2tdeploy.training.checkpoints import CheckpointStore, read_state

ROOT = Path(__file__).resolve().parents[2]
PROBLEM = "translate_dates_ende"
# The sizes of tests/integration: there the same training graph is used, so that it may be in the cache.
DATA_OPTIONS = "train_examples=800,dev_examples=40,test_examples=40,vocab_size=500"
HPARAMS = (
    "hidden_size=32,filter_size=64,num_heads=2,num_encoder_layers=1,num_decoder_layers=1,"
    "dropout=0.1,batch_size=256,learning_rate_constant=1,extra_length=10"
)
SAVE_EVERY, EVALUATE_EVERY = 5, 20  # steps
STEPS_OF_A_LIFE = 25  # more than the training steps between a start and the kill, on average
PATIENCE_SECONDS = 180.0
MEASURED = ("loss", "gradient_norm", "learning_rate", "epoch", "perplexity", "accuracy", "bleu", "chrf")  # no times


class Phase(StrEnum):
    """What a training process does."""

    START = "start-up"
    GRAPH = "graph building"
    STEPS = "steps"
    CHECKPOINT = "checkpoint write"
    EVALUATION = "evaluation"
    FILE = "other file write"


@dataclass(frozen=True)
class Setting:
    """What is trained, and how."""

    folder: Path
    engine: str
    processes: int
    steps: int

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def command(self, run: Path) -> list[str]:
        words = [
            "train", "--problem", PROBLEM, "--model", "transformer", "--hparams-set", "transformer_tiny",
            "--hparams", HPARAMS, "--data-dir", self.data, "--output-dir", run, "--train-steps", self.steps,
            "--save-every", SAVE_EVERY, "--eval-every", EVALUATE_EVERY, "--log-every", 1, "--eval-sentences", 4,
            "--keep-last", 3, "--threads", 1, "--engine", self.engine, "--nproc", self.processes, "--json",
        ]  # fmt: skip
        return [sys.executable, "-m", "t2tdeploy", *map(str, words)]


@dataclass
class Times:
    """Seconds of the phases of the uninterrupted run: random moments are drawn from them."""

    start: float = 1.0
    graph: float = 1.0
    evaluation: float = 0.1


class Life:
    """One training process, or several with their launcher, and what they say."""

    def __init__(self, setting: Setting, run: Path, *, cache: Path | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        if cache is not None:
            environment["T2TDEPLOY_CACHE"] = str(cache)
        self.run, self.started = run, time.monotonic()
        self.lines: list[tuple[float, str]] = []  # seconds since the start, text
        self._process = subprocess.Popen(
            setting.command(run), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def events(self, name: str) -> list[tuple[float, dict[str, Any]]]:
        """When, and with what data, an event was reported."""
        parsed = [(seconds, json.loads(line)) for seconds, line in list(self.lines) if line.startswith('{"event"')]
        return [(seconds, event) for seconds, event in parsed if event["event"] == name]

    def resumed_from(self) -> int | None:
        """None if it did not say so, or not yet."""
        match = re.search(r"resuming from step (\d+)", self.text)
        return None if match is None else int(match[1])

    def wait(self, happened: Callable[[], bool], *, pause: float = 0.002) -> bool:
        """Waits for something to be so; False if the process ended before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            if self.ended:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing happened for {PATIENCE_SECONDS:.0f} s:\n{self.text}")
            time.sleep(pause)
        return True

    def finish(self) -> int:
        """Waits for the end; returns the exit status."""
        self.wait(lambda: self.ended, pause=0.02)
        self._reader.join(timeout=30)
        return self._process.returncode

    def kill(self, draw: random.Random) -> bool:
        """SIGKILL: to the process; of several to one, to the launcher, or to all. False if it had ended."""
        family = [self._process.pid, *children(self._process.pid)]
        victims = draw.choice([family, *([pid] for pid in family)])
        killed = not self.ended
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Who is left stops by itself.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self.ended and all(is_gone(pid) for pid in family)):
            assert time.monotonic() < deadline, f"processes outlived the kill of {victims}: {family}"
            time.sleep(0.002)
        self._reader.join(timeout=30)
        return killed and self._process.returncode != 0

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self.lines.append((time.monotonic() - self.started, line.rstrip("\n")))


def children(pid: int) -> list[int]:
    """The child processes; none where /proc does not tell."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_gone(pid: int) -> bool:
    """True also for a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def aim(life: Life, phase: Phase, times: Times, draw: random.Random) -> None:
    """Waits for a random moment of a phase, or for the end."""
    match phase:
        case Phase.START:
            time.sleep(draw.uniform(0, times.start))
        case Phase.GRAPH:
            life.wait(lambda: "building the training graph" in life.text)
            time.sleep(draw.uniform(0, times.graph))
        case Phase.EVALUATION:
            life.wait(lambda: any(event["step"] % EVALUATE_EVERY == 0 for _, event in life.events("checkpoint")))
            time.sleep(draw.uniform(0, times.evaluation))
        case Phase.CHECKPOINT:
            wait_for_checkpoints(life, draw.randint(0, 2))
            life.wait(lambda: any(name.startswith(".step-") for name in names(life.run / "checkpoints")), pause=0)
            time.sleep(draw.uniform(0, 0.01))
        case _:
            wait_for_checkpoints(life, draw.randint(1, 3))
            time.sleep(draw.uniform(0, 0.1))


def wait_for_checkpoints(life: Life, count: int) -> None:
    life.wait(lambda: len(life.events("checkpoint")) >= count and bool(life.events("data")))


def names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def phase_hit(life: Life) -> Phase:
    """What a killed process was doing."""
    if any(name.startswith(".step-") for name in names(life.run / "checkpoints")):
        return Phase.CHECKPOINT
    if leftovers(life.run):
        return Phase.FILE
    if not life.events("data"):
        builds = "building the training graph" in life.text and not life.events("training graph")
        return Phase.GRAPH if builds else Phase.START
    store = CheckpointStore(life.run / "checkpoints")
    steps = store.steps()
    return Phase.EVALUATION if steps and read_state(store.path(steps[-1])).evaluation_due else Phase.STEPS


def leftovers(folder: Path) -> list[str]:
    """Half-written files and folders below `folder`."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if is_leftover(path) or ".tmp" in path.name]


@dataclass
class Chaos:
    """The killed run, kill by kill."""

    setting: Setting
    run: Path
    times: Times
    draw: random.Random
    hits: Counter[Phase] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    newest: int | None = None  # checkpoint after the last kill

    def kill_once(self, phase: Phase) -> Life | None:
        """Starts the run and kills it; None if it ended before."""
        fresh = self.setting.folder / f"cache-{self.hits.total()}" if phase is Phase.GRAPH else None
        life = Life(self.setting, self.run, cache=fresh)
        aim(life, phase, self.times, self.draw)
        if not life.kill(self.draw):
            self.faults.append(f"training ended before kill {self.hits.total() + 1}: {life.text[-1000:]}")
            return None
        self.hits[phase_hit(life)] += 1
        self.check(life)
        return life

    def check(self, life: Life) -> None:
        """That this life went on where the last one ended, and lost nothing."""
        resumed = life.resumed_from()
        if life.events("data") and resumed != self.newest:
            self.faults.append(f"resumed from {resumed}, but the newest checkpoint was {self.newest}")
        if "error: " in life.text and self.setting.processes == 1:
            self.faults.append(f"a start failed: {life.text[-1000:]}")
        steps = CheckpointStore(self.run / "checkpoints").steps()
        announced = [event["step"] for _, event in life.events("checkpoint")]
        reached = max([0, *announced, *([] if self.newest is None else [self.newest])])
        if reached > max([0, *steps]):
            self.faults.append(f"checkpoint {reached} is lost; there are {steps}")
        self.newest = steps[-1] if steps else None

    def finish(self) -> None:
        life = Life(self.setting, self.run)
        status = life.finish()
        self.check(life)
        if status != 0:
            self.faults.append(f"the last start ended with status {status}: {life.text[-1000:]}")


def train_uninterrupted(setting: Setting, run: Path) -> Times:
    """Raises RuntimeError if that fails."""
    life = Life(setting, run)
    if life.finish() != 0:
        raise RuntimeError(life.text)
    built = life.events("training graph")
    graph = built[0][1]["seconds"] if built else 0.0
    saved = {event["step"]: seconds for seconds, event in life.events("checkpoint")}
    evaluations = [seconds - saved[event["step"]] for seconds, event in life.events("evaluation")]
    return Times(start=life.events("data")[0][0] - graph, graph=graph or 5.0, evaluation=max(evaluations))


def differences(run: Path, reference: Path, *, steps: int, same_checkpoints: bool) -> list[str]:
    """In what a killed run that was finished is not the uninterrupted one."""
    store, expected = CheckpointStore(run / "checkpoints"), CheckpointStore(reference / "checkpoints")
    found = [
        f"{file.name} of step {steps} differs"
        for file in sorted(expected.path(steps).glob("*.safetensors"))
        if file.read_bytes() != (store.path(steps) / file.name).read_bytes()
    ]
    if (store.directory / "best.json").read_bytes() != (expected.directory / "best.json").read_bytes():
        found.append("best.json differs")
    if same_checkpoints and store.steps() != expected.steps():
        found.append(f"checkpoints are {store.steps()}, not {expected.steps()}")
    for group in ("train", "evaluation"):
        mine, theirs = curve(run, group), curve(reference, group)
        if [line["step"] for line in mine] != [line["step"] for line in theirs]:
            found.append(f"metrics.jsonl, {group}: not each step once and in order: {[line['step'] for line in mine]}")
        found += [f"metrics.jsonl, {group}: {a}, not {b}" for a, b in zip(mine, theirs, strict=False) if a != b]
    return found + [f"left behind: {name}" for name in leftovers(run)]


def curve(run: Path, group: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {name: line[name] for name in ("step", *MEASURED) if name in line} for line in lines if line["group"] == group
    ]


def phases(kills: int, engine: str, draw: random.Random) -> list[Phase]:
    """What to aim at, each about as often; building a graph takes long and comes less often."""
    aims = [Phase.STEPS, Phase.CHECKPOINT, Phase.EVALUATION, Phase.START]
    wanted = [aims[number % len(aims)] for number in range(kills)]
    if engine == "ort":
        wanted[9::10] = [Phase.GRAPH] * len(wanted[9::10])
    draw.shuffle(wanted)
    return wanted


def run_chaos(setting: Setting, wanted: Iterable[Phase], *, seed: int, say: Callable[[str], None] = print) -> Chaos:
    """Makes the data, both runs and the comparison; `faults` of the result says what is wrong."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    datagen = ["datagen", "--problem", PROBLEM, "--data-dir", str(setting.data), "--problem-options", DATA_OPTIONS]
    subprocess.run([sys.executable, "-m", "t2tdeploy", *datagen], cwd=ROOT, check=True, capture_output=True)
    reference, started = setting.folder / "reference", time.monotonic()
    times = train_uninterrupted(setting, reference)
    say(f"uninterrupted run: {setting.steps} steps in {time.monotonic() - started:.0f} s, {times.start:.1f} s to start")
    chaos = Chaos(setting, setting.folder / "killed", times, random.Random(seed))
    wanted = list(wanted)
    for number, phase in enumerate(wanted, start=1):
        life = chaos.kill_once(phase)
        if life is None:
            break
        where = f"{phase_hit(life):<16}  newest checkpoint {chaos.newest}"
        say(f"kill {number}/{len(wanted)}  {where}  {time.monotonic() - started:.0f} s")
    chaos.finish()
    same_checkpoints = setting.processes == 1  # of several, those that were not killed stop in order, and save
    chaos.faults += differences(chaos.run, reference, steps=setting.steps, same_checkpoints=same_checkpoints)
    return chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--engine", choices=["ort", "torch"], default="ort")
    parser.add_argument("--nproc", type=int, default=1, help="processes that train together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of the runs; it stays [a temporary one, which does not]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="t2tdeploy-chaos-") as temporary:
        folder = given.folder or Path(temporary)
        setting = Setting(folder.resolve(), given.engine, given.nproc, steps=STEPS_OF_A_LIFE * (given.kills + 2))
        wanted = phases(given.kills, given.engine, random.Random(given.seed))
        chaos = run_chaos(setting, wanted, seed=given.seed, say=lambda line: print(line, flush=True))
    hits = ", ".join(f"{phase} {count}" for phase, count in sorted(chaos.hits.items()))
    print(f"{chaos.hits.total()} kills of engine {given.engine}, {given.nproc} processes, seed {given.seed}: {hits}")
    for fault in chaos.faults:
        print(f"FAULT: {fault}")
    print("the killed run differs" if chaos.faults else "the killed run is the uninterrupted one, bit for bit")
    return 1 if chaos.faults else 0


if __name__ == "__main__":
    sys.exit(main())
