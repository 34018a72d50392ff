"""What the protocol's methods do, whatever carries them."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from t2tdeploy.classifier import Classifier
from t2tdeploy.serving.answering import FEWER_ROWS
from t2tdeploy.serving.bundle_source import RepositoryFolder
from t2tdeploy.serving.inference.classification import ClassificationInterface
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb
from t2tdeploy.serving.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from t2tdeploy.serving.server import Server
from tests.serving.attentive_bundle import write_attentive_bundle
from tests.serving.repositories import labels, put
from tests.serving.running import running
from tests.serving.toy_classifier import write_table_classifier, write_text_classifier

ROWS: list[dict[str, Any]] = [{"width": 1.5, "colour": "red"}, {"width": -2.0, "colour": "blue"}]

Ask = Callable[[Server], tuple[str, list[str]]]


def by_grpc(server: Server) -> tuple[str, list[str]]:
    width = pb.InferTensorContents(fp32_contents=[row["width"] for row in ROWS])
    colour = pb.InferTensorContents(bytes_contents=[row["colour"].encode() for row in ROWS])
    tensor = pb.ModelInferRequest.InferInputTensor
    inputs = [
        tensor(name="width", datatype="FP32", shape=[2], contents=width),
        tensor(name="colour", datatype="BYTES", shape=[2], contents=colour),
    ]
    outputs = [pb.ModelInferRequest.InferRequestedOutputTensor(name="labels")]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = pb.ModelInferRequest(model_name="m", inputs=inputs, outputs=outputs)
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    content = answer.raw_output_contents[0]
    found = []
    while content:
        end = 4 + int.from_bytes(content[:4], "little")
        found.append(content[4:end].decode())
        content = content[end:]
    return answer.model_version, found


def by_http(server: Server) -> tuple[str, list[str]]:
    inputs = [
        {"name": "width", "datatype": "FP32", "shape": [2], "data": [row["width"] for row in ROWS]},
        {"name": "colour", "datatype": "BYTES", "shape": [2], "data": [row["colour"] for row in ROWS]},
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "labels"}]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{server.http_port}/v2/models/m/infer", body)
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    return answer["model_version"], answer["outputs"][0]["data"]


@pytest.mark.parametrize("ask", [by_grpc, by_http])
def test_the_version_that_a_request_was_read_for_answers_it(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if another, with other features, takes its place in between."""
    table = write_table_classifier(tmp_path / "table")
    put(table.directory, tmp_path / "models" / "m" / "1")
    texts = write_text_classifier(tmp_path / "texts")
    decode = ClassificationInterface.decode
    monkeypatch.setattr("t2tdeploy.serving.inference.core.LARGE_BYTES", 0)  # in a thread: the event loop goes on

    with running(RepositoryFolder(tmp_path / "models"), poll_seconds=0.05, http_port=0) as server:

        def replaced_while_it_reads(self: ClassificationInterface, *given: Any) -> Any:
            put(texts.directory, tmp_path / "models" / "m" / "2")
            deadline = time.monotonic() + 20
            while labels(server.repository) != ["m:2"]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return decode(self, *given)

        monkeypatch.setattr(ClassificationInterface, "decode", replaced_while_it_reads)
        version, found = ask(server)
    assert version == "1"
    assert found == [answer.labels[0].name for answer in Classifier(table, threads=1).classify(ROWS)]


def test_a_request_that_is_too_large_says_that_fewer_rows_may_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever limit it is that it passes."""
    monkeypatch.setattr("t2tdeploy.serving.frontend.MAX_DETAILS", 3)
    rows = [b"ab"] * 3
    source = pb.ModelInferRequest.InferInputTensor(
        name="sources", datatype="BYTES", shape=[3], contents=pb.InferTensorContents(bytes_contents=rows)
    )
    bundle = write_attentive_bundle(tmp_path / "toy")
    asked = pb.ModelInferRequest(inputs=[source])
    asked.parameters["return_tokens"].bool_param = True
    for limits, words in (
        ({"max_sentences_per_request": 2}, "sources: 3 rows in one request"),
        ({"max_tokens_per_request": 5}, "sources: 9 tokens in one request"),
        ({}, "parameters.return_tokens: up to"),
    ):
        with (
            running(bundle, **limits) as server,
            grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=30)
        assert caught.value.details().startswith(words)
        assert (FEWER_ROWS, "1") in caught.value.trailing_metadata()
