"""The health check of containers, against real servers."""

import subprocess
import sys
from pathlib import Path

import pytest

from t2tdeploy.serving.health import health_of
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle


def check(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "t2tdeploy.serving.health", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.strip()


@pytest.fixture
def stopped_port(tmp_path: Path) -> int:
    """Where a server was."""
    with running(write_toy_bundle(tmp_path / "stopped")) as server:
        assert server.port
        return server.port


def test_a_server_that_serves(tmp_path: Path) -> None:
    with running(write_toy_bundle(tmp_path / "bundle")) as server:
        assert health_of(f"localhost:{server.port}", timeout=10) == "SERVING"
        assert check(f"localhost:{server.port}") == (0, "SERVING")


def test_a_server_that_is_gone(stopped_port: int) -> None:
    assert check(f"localhost:{stopped_port}") == (1, "UNAVAILABLE")


def test_the_wait_is_limited(stopped_port: int) -> None:
    assert health_of(f"localhost:{stopped_port}", timeout=0.0) != "SERVING"


def test_it_says_how_it_is_used() -> None:
    assert check("--help")[0] == 0
    assert check()[0] != 0
