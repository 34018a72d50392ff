"""The short form of kill_training.py: some kills of each engine, with dropout."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.chaos.kill_training import Phase, Setting, differences, phases, run_chaos

WANTED = {
    "torch": [Phase.CHECKPOINT, Phase.START, Phase.EVALUATION],
    "ort": [Phase.CHECKPOINT, Phase.STEPS, Phase.EVALUATION],
}


@pytest.mark.parametrize("engine", ["torch", "ort"])
def test_a_killed_run_is_the_uninterrupted_one(engine: str, tmp_path: Path) -> None:
    setting = Setting(tmp_path, engine, processes=1, steps=120)
    chaos = run_chaos(setting, WANTED[engine], seed=1)
    assert not chaos.faults
    assert chaos.hits.total() == len(WANTED[engine])
    if engine == "torch":
        the_comparison_finds(setting, chaos.run)


def the_comparison_finds(setting: Setting, reference: Path) -> None:
    """A lost evaluation, a wrong number in a checkpoint, and a file that was left behind."""
    run = Path(shutil.copytree(reference, setting.folder / "wrong"))
    metrics, model = run / "metrics.jsonl", run / f"checkpoints/step-{setting.steps:08d}/model.safetensors"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    (run / ".curve.png.0123abcd.partial").touch()
    found = differences(run, reference, steps=setting.steps, same_checkpoints=True)
    assert len(found) == 3, found
    for fault in ("model.safetensors of step 120 differs", "metrics.jsonl, evaluation", "left behind: .curve.png"):
        assert any(line.startswith(fault) for line in found), found


def test_the_long_form_aims_at_every_phase() -> None:
    drawn = phases(50, "ort", random.Random(0))
    assert len(drawn) == 50
    assert set(drawn) == set(Phase) - {Phase.FILE}
    assert Phase.GRAPH not in phases(50, "torch", random.Random(0))
