"""The examples of docs/open-inference.md run, and its tables are complete."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from t2tdeploy.classifier import Classifier
from t2tdeploy.serving.inference.classification import ClassificationInterface
from t2tdeploy.serving.inference.translation import TranslationInterface
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb
from tests.serving.inference.conftest import Served
from tests.serving.toy_classifier import write_tensor_regressor, write_text_classifier

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "open-inference.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


def addressed(text: str, served: Served) -> str:
    return text.replace("localhost:50051", served.grpc).replace("localhost:8080", served.http).replace("dates", "toy")


def test_the_python_example_runs(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    exec(compile(addressed(example, served), "docs/open-inference.md", "exec"), {})
    expected = served.translator.translate(["It is quarter to seven."], num_hypotheses=2, alpha=0.8)[0]
    assert capsys.readouterr().out.splitlines()[1] == str([(one.text, one.score) for one in expected])


def test_the_curl_examples_run(served: Served) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    (example,) = [block for block in blocks("") if block.startswith("curl")]
    commands = re.split(r"^(?=curl )", addressed(example, served), flags=re.MULTILINE)[1:]
    assert len(commands) == 5
    for command in commands:
        done = subprocess.run([*shlex.split(command), "--fail"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stdout
        assert json.loads(done.stdout)


def test_every_tensor_and_method_is_in_the_tables(tmp_path: Path) -> None:
    rows = {
        cell
        for line in PAGE.splitlines()
        if line.startswith("| `")
        for cell in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    bundles = [write_text_classifier(tmp_path / "texts"), write_tensor_regressor(tmp_path / "tensor")]
    answers = [spec for one in bundles for spec in ClassificationInterface(Classifier(one, threads=1)).outputs]
    tensors = {spec.name for spec in (*TranslationInterface.inputs, *TranslationInterface.outputs, *answers)}
    methods = set(pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name)
    assert tensors <= rows
    assert methods <= rows
