"""translate-corpus as a command: killed and given again, two at once, and what can be asked wrongly."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.files import lock_file
from tests.corpus.conftest import write_corpus
from tests.integration.commands import ENVIRONMENT, arguments, fail, succeed
from tests.serving.toy_bundle import write_toy_bundle

SOURCES = [f"sentence {number}" for number in range(40)]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that takes its time for a block: there is time to kill it."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy", steps=20)


def command(bundle: Bundle, source: Path, output: Path) -> list[str | Path]:
    return [
        "translate-corpus", "--bundle", bundle.directory, "--input", source, "--output", output, "--block-rows", "4",
        "--threads", "1",
    ]  # fmt: skip


def test_a_killed_command_goes_on_and_ends_as_if_it_had_not_been(slow: Bundle, tmp_path: Path) -> None:
    source, output, whole = write_corpus(tmp_path / "in.parquet", SOURCES), tmp_path / "out", tmp_path / "whole"
    process = subprocess.Popen(arguments(*command(slow, source, output)), env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while not list(output.glob("_blocks/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(list(output.glob("_blocks/*.json")))
    assert 0 < kept < 10
    assert not (output / "_summary.json").exists()
    summary = succeed(*command(slow, source, output), "--json").result
    assert (summary["blocks"], summary["blocks_kept"], summary["rows"]) == (10, kept, 40)
    succeed(*command(slow, source, whole))
    parts = sorted(part.name for part in whole.glob("part-*"))
    assert len(parts) == 10
    assert parts == sorted(part.name for part in output.glob("part-*"))
    assert [(output / part).read_bytes() for part in parts] == [(whole / part).read_bytes() for part in parts]
    assert not list(output.rglob("*.partial"))


def test_two_at_once_and_questions_that_contradict(slow: Bundle, tmp_path: Path) -> None:
    source, output = write_corpus(tmp_path / "in.parquet", SOURCES), tmp_path / "out"
    output.mkdir()
    lock = lock_file(output / "_lock")
    assert lock is not None
    with lock:
        assert "another process is translating into" in fail(*command(slow, source, output)).stderr
    words = command(slow, source, output)
    assert "needs --workers and --threads" in fail(*words, "--ray-address", "auto").stderr
    assert "are both 'score'" in fail(*words, "--translation-column", "score").stderr
    assert "unknown variant 'int8'" in fail(*words, "--variant", "int8").stderr
    assert sorted(path.name for path in output.iterdir()) == ["_lock"]  # nothing was begun
