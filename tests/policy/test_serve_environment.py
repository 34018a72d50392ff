"""A clean environment with only the serve extra serves a bundle, and has no torch in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.policy.source import ROOT
from tests.serving.toy_bundle import write_toy_bundle
from tests.sessions import made_once

# Copied first, because a build leaves its traces in the folder it is run in.
SOURCES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "t2tdeploy")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
pytestmark = pytest.mark.timeout(900)  # pip installs a whole environment, beside whatever else the machine does
PIP = (sys.executable, "-m", "pip", "--python")  # of this environment: the new one has none, which is sooner made
NO_REGISTRY = ("Retrying (Retry", "No matching distribution found for setuptools")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new virtual environment; skips if packages cannot be had."""
    return made_once(tmp_path_factory, "serve-environment", _install) / "venv" / "bin"


def _install(folder: Path) -> None:
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, env=ENVIRONMENT)
    install = [*PIP, str(folder / "venv" / "bin" / "python"), "install", "--retries=1", "--timeout=30"]
    done = subprocess.run(
        [*install, "-c", "constraints.txt", ".[serve]"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode and any(sign in done.stderr + done.stdout for sign in NO_REGISTRY):
        pytest.skip("pip cannot reach a package registry")
    assert done.returncode == 0, done.stderr


def run(program: str | Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def test_it_has_nothing_of_training(environment: Path, tmp_path: Path) -> None:
    listed = run(*PIP, environment / "python", "list", "--format=json", cwd=tmp_path)
    installed = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert {"t2tdeploy", "onnxruntime", "grpcio"} <= installed
    assert not installed & {"torch", "pyarrow", "onnx", "matplotlib", "sacrebleu", "safetensors", "tensorboard"}


def test_it_answers(environment: Path, tmp_path: Path) -> None:
    write_toy_bundle(tmp_path / "bundle")
    command = [str(environment / "t2tdeploy"), "serve", "--bundle", "bundle", "--port", "0", "--threads", "1", "--json"]
    command += ["--ui", "--http-port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            serving = next(event for event in map(json.loads, server.stdout) if event["event"] == "serving")
            address = f"localhost:{serving['port']}"
            answer = run(environment / "t2tdeploy", "translate", "--server", address, "A house.", cwd=tmp_path)
            assert (answer.returncode, answer.stdout) == (0, "A house.\n"), answer.stderr
            health = run(environment / "python", "-m", "t2tdeploy.serving.health", address, cwd=tmp_path)
            assert (health.returncode, health.stdout) == (0, "SERVING\n")
            with urllib.request.urlopen(serving["ui"], timeout=30) as page:  # its files are in the package
                assert b"app.js" in page.read()
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()


@pytest.mark.parametrize(
    "command",
    [
        ["list", "problems"],
        ["evaluate", "--output-dir", "run"],
        ["export", "--output-dir", "run", "--bundle", "bundle"],
        ["optimize", "--bundle", "bundle", "--output", "smaller", "--variant", "cpu-int8"],
    ],
)
def test_training_commands_say_what_to_install(environment: Path, tmp_path: Path, command: list[str]) -> None:
    done = run(environment / "t2tdeploy", *command, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "help: " in done.stderr
    assert "pip install 't2tdeploy[train]'" in done.stderr
    assert "Traceback" not in done.stderr
