"""`train` in several processes: one run, whatever their number, and however they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands import ENVIRONMENT, Outcome, arguments, fail, succeed
from tests.integration.conftest import HPARAMS, Road, train_arguments

Words = list[str | Path]
EXACT = HPARAMS.replace("dropout=0.1", "dropout=0")  # the problem sets the other rates to 0


def words(road: Road, run: Path, *more: str | Path, steps: int = 12, hparams: str = EXACT) -> Words:
    """A short run; without dropout, so that processes and one process compute the same."""
    words = train_arguments(road.folder, run, steps=steps)
    words[words.index("--hparams") + 1] = hparams
    return [*words, "--no-decode", "--eval-every", "1000", *more]


def curve(run: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["group"] == "train"}


def position(run: Path, step: int) -> tuple[int, int]:
    """Epoch and batch of a checkpoint."""
    state = json.loads((run / f"checkpoints/step-{step:08d}/state.json").read_text())["training"]
    return state["epoch"], state["batch"]


def same_checkpoint(run: Path, other: Path) -> bool:
    files = [Path("checkpoints/step-00000012") / name for name in ("model.safetensors", "optimizer.safetensors")]
    return all((run / file).read_bytes() == (other / file).read_bytes() for file in files)


def start(command: list[str], run: Path) -> subprocess.Popen[bytes]:
    """Starts a command; returns when its run has a checkpoint."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def end(process: subprocess.Popen[bytes]) -> Outcome:
    stdout, stderr = process.communicate(timeout=60)
    return Outcome(process.returncode, stdout.decode(), stderr.decode())


def of_rank(launcher: int, rank: int) -> int:
    """The process of a rank, among the children of the launcher."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (found,) = [
        int(child) for child in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes()
    ]
    return found


@pytest.fixture(scope="module")
def two(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    outcome = succeed(*words(road, run, "--nproc", "2", "--json"))
    assert outcome.result["step"] == 12
    assert outcome.stdout.count('"event": "data"') == 1, "only one process speaks"
    return run


def test_two_processes_train_as_one_that_accumulates_two_batches(road: Road, two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed(*words(road, run, hparams=f"{EXACT},accumulate_steps=2"))
    expected, found = curve(run), curve(two)
    assert found.keys() == expected.keys()
    for step, line in expected.items():
        assert found[step]["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert found[step]["gradient_norm"] == pytest.approx(line["gradient_norm"], rel=1e-4)
        assert found[step]["padding_share"] == pytest.approx(line["padding_share"])
        assert found[step]["communication_bytes"] > 0
        assert "communication_bytes" not in line
    assert position(two, 12) == position(run, 12)


def test_resumed_two_processes_are_the_uninterrupted_ones_bit_for_bit(road: Road, two: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(two, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints/step-00000012")
    assert "resuming from step 10" in succeed(*words(road, run, "--nproc", "2")).stderr
    assert same_checkpoint(run, two)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_a_killed_process_ends_all_and_another_number_goes_on(road: Road, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(arguments(*words(road, run, "--nproc", "2", steps=100_000)), run)
    os.kill(of_rank(process.pid, 1), signal.SIGKILL)
    outcome = end(process)
    assert outcome.status == 1
    assert "error: process 1 of 2 (ranks from 0) was killed by SIGKILL; the others were ended" in outcome.stderr
    assert "the same command resumes from the last checkpoint" in outcome.stderr
    assert outcome.stderr.count("error: ") == 1
    step = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    epoch, batch = position(run, step)
    outcome = succeed(*words(road, run, "--nproc", "3", steps=step + 1))
    assert f"resuming from step {step}" in outcome.stderr
    # Three more batches of the epoch; where it ended, the next one begins.
    assert position(run, step + 1) in ((epoch, batch + 3), (epoch + 1, 0))
    outcome = succeed(*words(road, run, steps=step + 2))
    assert f"resuming from step {step + 1}" in outcome.stderr


def test_a_terminated_run_saves_in_order(road: Road, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(arguments(*words(road, run, "--nproc", "2", steps=100_000)), run)
    process.send_signal(signal.SIGTERM)
    outcome = end(process)
    assert outcome.status == 130, outcome.stderr
    assert "interrupted at step" in outcome.stderr
    newest = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    assert newest == max(curve(run))


def test_torchrun_starts_the_same_run(road: Road, two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*torchrun, "t2tdeploy", *map(str, words(road, run))]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert same_checkpoint(run, two)


def test_a_mistake_is_told_once(road: Road, tmp_path: Path) -> None:
    outcome = fail(*words(road, tmp_path / "run", "--nproc", "2", hparams="dropuot=0.3"))
    assert outcome.status == 2
    assert "did you mean 'dropout'?" in outcome.stderr
    assert outcome.stderr.count("fault in") == 1
    assert not list(tmp_path.iterdir())


def test_nproc_within_another_launcher_is_refused(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "WORLD_SIZE", "2")
    outcome = fail(*words(road, tmp_path / "run", "--nproc", "2"))
    assert outcome.status == 2
    assert "under torchrun leave --nproc out" in outcome.stderr
