"""Many workers write what one process writes, even if one of them is killed. `make test-ray` runs this."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.corpus.run import translate_corpus
from t2tdeploy.errors import InputError
from t2tdeploy.progress import SilentReporter
from tests.corpus.conftest import HERE, MakeJob, sums, write_corpus
from tests.integration.commands import ENVIRONMENT, arguments
from tests.serving.toy_bundle import write_toy_bundle

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)"),
]
SOURCES = [f"sentence {number}" for number in range(48)]


def workers_of(driver: int) -> list[int]:
    """The processes of actors that translate, below the process `driver`."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    found = []
    for process in parents:
        above = process
        while above in parents and above != driver:
            above = parents[above]
        try:
            name = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if above == driver and name.startswith(b"ray::MapWorker"):
            found.append(process)
    return found


def test_a_killed_worker_is_replaced_and_nothing_is_lost(make: MakeJob, tmp_path: Path) -> None:
    slow = write_toy_bundle(tmp_path / "toy", steps=15)
    source, output = write_corpus(tmp_path / "in.parquet", SOURCES), tmp_path / "ray"
    words = [
        "translate-corpus", "--bundle", slow.directory, "--input", source, "--output", output, "--block-rows", "4",
        "--workers", "2", "--threads", "1", "--json",
    ]  # fmt: skip
    with subprocess.Popen(arguments(*words), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as driver:
        try:
            deadline = time.monotonic() + 120
            while not list(output.glob("_blocks/*.json")):
                assert driver.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            workers = workers_of(driver.pid)
            assert len(workers) == 2
            os.kill(workers[0], signal.SIGKILL)
            assert len(list(output.glob("_blocks/*.json"))) < 12
            answer, _ = driver.communicate(timeout=120)
        finally:
            driver.kill()
    assert driver.returncode == 0
    summary = json.loads(answer.splitlines()[-1])
    assert (summary["rows"], summary["translated"], summary["blocks_kept"]) == (48, 48, 0)
    here = make(source, "here", block_rows=4, bundle=slow)
    translate_corpus(here, HERE, SilentReporter())
    names = sorted(part.name for part in output.glob("part-*"))
    assert [(output / name).read_bytes() for name in names] == sums(here)


def test_errors_of_workers_are_errors_of_ours(make: MakeJob, bundle: Bundle, tmp_path: Path) -> None:
    from t2tdeploy.corpus.ray_runner import run_on_ray

    job = make(write_corpus(tmp_path / "in.parquet", ["a", None]))
    with pytest.raises(InputError, match=r"in.parquet, row 1: null"):
        translate_corpus(job, run_on_ray(workers=1, threads=1, reporter=SilentReporter()), SilentReporter())
