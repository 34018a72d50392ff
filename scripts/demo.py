"""The whole road on embedded data: datagen, train, evaluate, export, serve, translate. A few minutes on two cores."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

PROBLEM = "translate_dates_ende"
SENTENCES = [
    "The meeting is on May 3, 2024.",
    "It is quarter to seven.",
    "Prices rose by 14 percent in April.",
    "Sixty-six guests came to the wedding.",
    "The wedding takes place on Tuesday, November 9.",
]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "t2tdeploy", *map(str, arguments)]


def show(arguments: list[str]) -> None:
    print(f"\n$ t2tdeploy {shlex.join(arguments[3:])}", flush=True)


def run(*arguments: str | Path) -> None:
    """Runs one command as a user would; its failure ends the demo."""
    show(command(*arguments))
    status = subprocess.run(command(*arguments)).returncode
    if status:
        sys.exit(f"the demo stops here: the command above failed with exit code {status}")


def start_server(bundle: Path) -> tuple[subprocess.Popen[str], int]:
    """A server on a free port, and the port."""
    arguments = command("serve", "--bundle", bundle, "--port", "0", "--json")
    show(arguments)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "serving":
            print(f"listening on port {event['port']}", flush=True)
            return process, int(event["port"])
    sys.exit(f"the demo stops here: the server ended with exit code {process.wait()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for all that the demo writes")
    folder = parser.parse_args().output
    data, run_directory, bundle = folder / "data", folder / "run", folder / "bundle"
    begun = time.monotonic()
    run("datagen", "--problem", PROBLEM, "--data-dir", data)
    run(
        "train",
        "--problem",
        PROBLEM,
        "--model",
        "transformer",
        "--hparams-set",
        "transformer_tiny",
        "--data-dir",
        data,
        "--output-dir",
        run_directory,
        "--eval-every",
        "500",
        "--eval-sentences",
        "100",
    )
    run("evaluate", "--output-dir", run_directory, "--split", "test")
    run("export", "--output-dir", run_directory, "--bundle", bundle, "--overwrite")
    server, port = start_server(bundle)
    try:
        run("translate", "--server", f"localhost:{port}", *SENTENCES)
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=60)
    print(f"\nthe server stopped with exit code {status}")
    print(f"the whole road took {(time.monotonic() - begun) / 60:.1f} minutes; everything is in {folder}/")
    sys.exit(status)


if __name__ == "__main__":
    main()
