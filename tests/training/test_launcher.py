"""Several processes of a command: all end, and what is said and returned is that of the one that matters."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2tdeploy.errors import TrainingError
from t2tdeploy.training import launcher
from t2tdeploy.training.launcher import LOST, launch

_BEGIN = "import os, signal, sys, time; rank = int(os.environ['RANK']); "
_SLEEP = "time.sleep(60)"


def program(code: str) -> list[str]:
    return [sys.executable, "-c", _BEGIN + code]


def test_each_knows_who_it_is(tmp_path: Path) -> None:
    code = (
        "names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE'); "
        f"open(r'{tmp_path}/' + os.environ['RANK'], 'w').write(' '.join(os.environ[name] for name in names))"
    )
    assert launch(program(code), processes=3) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["0 0 3 3", "1 1 3 3", "2 2 3 3"]


@pytest.mark.parametrize(("code", "how"), [("sys.exit(7)", "status 7"), ("os.kill(os.getpid(), 9)", "SIGKILL")])
@pytest.mark.parametrize("rank", [0, 2])
def test_one_that_dies_is_named_and_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, code: str, how: str, rank: int
) -> None:
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.2)
    last = f"print('last words', file=sys.stderr, flush=True); {code}"
    started = time.monotonic()
    with pytest.raises(TrainingError, match=f"process {rank} of 3 .* {how}") as error:
        launch(program(f"exec({last!r}) if rank == {rank} else {_SLEEP}"), processes=3)
    assert time.monotonic() - started < 30
    assert ("last words" in error.value.message) == (rank != 0)  # those of the first are on the terminal already
    assert "resumes from the last checkpoint" in (error.value.help or "")


@pytest.mark.parametrize("later", [0, 1])
def test_those_that_only_lost_another_are_not_the_ones_to_blame(later: int) -> None:
    """Whoever ends first."""
    code = f"time.sleep(0.5 * (rank == {later})); sys.exit('this is why' if rank == 1 else {LOST})"
    with pytest.raises(TrainingError, match=r"process 1 of 2 .* status 1(.|\n)*this is why"):
        launch(program(code), processes=2)


def test_one_that_is_ended_because_others_lost_another_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.2)
    with pytest.raises(TrainingError, match=f"process 1 of 2 .* status {LOST}"):
        launch(program(f"sys.exit({LOST}) if rank == 1 else {_SLEEP}"), processes=2)


@pytest.mark.parametrize("status", [1, 2])
def test_a_fault_that_the_first_one_told_is_not_told_again(status: int) -> None:
    assert launch(program(f"sys.exit({status})"), processes=3) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_each_once_and_ends_in_130(tmp_path: Path, number: signal.Signals) -> None:
    code = f"""
import os, signal, sys, time
from pathlib import Path
seen = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: seen.append(number))
Path(r'{tmp_path}', os.environ['RANK']).touch()
while not seen:
    time.sleep(0.01)
time.sleep(0.3)
Path(r'{tmp_path}', os.environ['RANK']).write_text(str(seen))
sys.exit(130)
"""
    process = start_launcher([sys.executable, "-c", code])
    wait_for(tmp_path, 2)
    process.send_signal(number)
    assert process.wait(timeout=30) == 130
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [str([int(number)])] * 2


def test_a_signal_before_they_listen_is_an_interruption(tmp_path: Path) -> None:
    process = start_launcher(program(f"open(r'{tmp_path}/' + str(rank), 'w'); {_SLEEP}"))
    wait_for(tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130


def test_when_the_launcher_is_killed_they_stop_in_order(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, time
from pathlib import Path
from t2tdeploy.training.launcher import die_with_launcher
def stop(*_):
    Path(r'{tmp_path}', os.environ['RANK']).write_text('in order')
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
die_with_launcher()
Path(r'{tmp_path}', os.environ['RANK']).touch()
time.sleep(60)
"""
    process = start_launcher([sys.executable, "-c", code])
    wait_for(tmp_path, 2)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(not (tmp_path / str(rank)).read_text() for rank in range(2)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_launcher(command: list[str]) -> subprocess.Popen[bytes]:
    code = f"import sys; from t2tdeploy.training.launcher import launch; sys.exit(launch({command!r}, processes=2))"
    return subprocess.Popen([sys.executable, "-c", code])


def wait_for(folder: Path, files: int) -> None:
    deadline = time.monotonic() + 20
    while len(list(folder.iterdir())) < files:
        assert time.monotonic() < deadline
        time.sleep(0.01)
