"""What starting a command or a server loads: each case in a fresh interpreter."""

import json
import subprocess
import sys

import pytest

TRAINING = {"torch", "datasets", "pyarrow", "matplotlib", "onnx"}
SERVING = {"onnxruntime", "grpc"}
HELP = """
import sys
sys.argv = ["t2tdeploy", "--help"]
from t2tdeploy.cli.main import main
try:
    main()
except SystemExit as exit:
    assert exit.code == 0
"""
REPORT = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"


def loaded_by(program: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", program + REPORT], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        ("import t2tdeploy", TRAINING | SERVING | {"numpy", "pydantic", "click"}),
        (HELP, TRAINING | SERVING | {"numpy", "rich"}),
        ("import t2tdeploy.serving.server, t2tdeploy.serving.client", TRAINING | {"click", "rich"}),
        ("import t2tdeploy.translator, t2tdeploy.runtime", TRAINING | SERVING),
        ("import t2tdeploy.registry", TRAINING | SERVING),
        ("import t2tdeploy.export.text_bundle, t2tdeploy.export.triton", {"torch", "grpc", "click"}),
    ],
)
def test_nothing_heavy_is_loaded(program: str, unwanted: set[str]) -> None:
    assert not loaded_by(program) & unwanted


def test_what_is_loaded_is_seen() -> None:
    assert "t2tdeploy.cli.main" in loaded_by(HELP)
    assert "grpc" in loaded_by("import t2tdeploy.serving.server")
