"""docs/serve.md and docs/operations.md say what the code does."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from t2tdeploy.serving.operation_options import OperationOptions
from t2tdeploy.serving.options import ServerOptions
from tests.serving.toy_bundle import write_toy_bundle

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("serve", "operations")}


@pytest.mark.parametrize(
    ("name", "heading", "options"),
    [
        ("serve", "## Options of the server", set(ServerOptions.model_fields) - set(OperationOptions.model_fields)),
        ("operations", "## Options", set(OperationOptions.model_fields)),
    ],
)
def test_every_server_option_is_documented_with_its_default(name: str, heading: str, options: set[str]) -> None:
    section = PAGES[name].partition(heading)[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in section.splitlines() if line.startswith("| `")]
    documented = {name.strip("`"): default for name, default in rows}
    assert set(documented) == options
    for name in options:
        field = ServerOptions.model_fields[name]
        if field.default is None:
            continue
        if isinstance(field.default, bool):
            assert documented[name] == str(field.default).lower()
            continue
        number = isinstance(field.default, int | float)
        assert documented[name] == (field.default or "none") if not number else float(documented[name]) == field.default


@pytest.mark.parametrize("name", PAGES)
def test_python_blocks_compile(name: str) -> None:
    blocks = PAGES[name].split("```python\n")[1:]
    assert blocks
    for block in blocks:
        compile(block.partition("```")[0], f"docs/{name}.md", "exec")


def test_the_commands_of_operations_do_what_the_page_says(tmp_path: Path) -> None:
    """The block of shell commands as it stands, but on free ports."""
    if not (shutil.which("openssl") and shutil.which("curl")):
        pytest.skip("openssl or curl is not installed")
    write_toy_bundle(tmp_path / "bundles" / "dates")
    for name, words in {"t2tdeploy": "-m t2tdeploy", "python": ""}.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        program.chmod(0o755)
    block = PAGES["operations"].partition("```sh\n")[2].partition("```")[0]
    port, metrics_port = free_ports(2)
    block = block.replace("9464", str(metrics_port)).replace("50051", str(port))
    block = block.replace("metrics_port =", f"port = {port}\nthreads = 1\nmetrics_port =")
    places = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run(
        ["bash", "-mec", block], cwd=tmp_path, env={**os.environ, **places}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].endswith("would be served")
    assert "SERVING" in lines
    assert "A house." in lines
    assert 't2tdeploy_requests_total{method="Translate",model="toy",status="OK"} 1.0' in lines
    access = [json.loads(line) for line in done.stderr.splitlines() if '"t2tdeploy.access"' in line]
    assert [(one["client"], one["status"]) for one in access] == [("web", "OK")]
    assert "A house." not in done.stderr


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
