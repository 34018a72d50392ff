"""A killed run, started again, is the run that was never killed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from tests.integration.commands import ENVIRONMENT, arguments, fail, succeed
from tests.integration.conftest import Road, train_arguments


def losses(run: Path) -> dict[int, float]:
    """Step -> loss; of a step that was repeated, the last."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["group"] == "train"}


def start_and_signal(road: Road, run: Path, number: int) -> int:
    """Starts the run, signals it once a first checkpoint is there, returns its exit status."""
    process = subprocess.Popen(
        arguments(*train_arguments(road.folder, run, steps=40)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step-*")):
        assert process.poll() is None, "training ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait(timeout=60)


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(road: Road, tmp_path: Path):
    killed = tmp_path / "killed"
    assert start_and_signal(road, killed, signal.SIGKILL) == -signal.SIGKILL
    assert not (killed / "checkpoints/step-00000040").exists()
    succeed(*train_arguments(road.folder, killed, steps=40))
    assert losses(killed) == losses(road.run)
    last = "checkpoints/step-00000040"
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (killed / last / file).read_bytes() == (road.run / last / file).read_bytes()


def test_a_terminated_run_saves_and_says_so(road: Road, tmp_path: Path):
    run = tmp_path / "stopped"
    assert start_and_signal(road, run, signal.SIGTERM) == 130
    newest = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    assert newest == max(losses(run))
    result = succeed(*train_arguments(road.folder, run, steps=newest + 2), "--json").result
    assert result["step"] == newest + 2


def test_other_settings_on_the_same_run_directory_stop_with_the_difference(road: Road):
    arguments = [
        word.replace("dropout=0.1", "dropout=0.3") if isinstance(word, str) else word
        for word in train_arguments(road.folder, road.run, steps=40)
    ]
    outcome = fail(*arguments)
    assert outcome.status == 2
    assert "dropout: 0.1 in the run directory, 0.3 asked" in outcome.stderr
    assert "help: choose another --output-dir" in outcome.stderr
