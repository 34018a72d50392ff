"""Requests that nobody's client would send: each is refused by the error table, and fills no log."""

import contextlib
import json
import logging
import re
import socket
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection

import grpc
import pytest

from t2tdeploy.serving.bundle_source import BundleFolders
from t2tdeploy.serving.inference.v2 import inference_pb2, inference_pb2_grpc
from t2tdeploy.serving.server import Server
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1 import translation_pb2_grpc as pb_grpc
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import write_text_classifier

DIGITS = "9" * 5000
"""More than Python makes a number of."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bundles")
    bundles = [write_toy_bundle(folder / "toy"), write_text_classifier(folder / "texts")]
    with running(BundleFolders([one.directory for one in bundles]), http_port=0, metrics_port=0) as server:
        yield server


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def http(port: int | None, content: bytes) -> bytes:
    """What is answered to these bytes until the connection is closed."""
    assert port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def post(server: Server, path: str, body: object) -> tuple[int, dict[str, str]]:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    found = http(server.http_port, head.encode() + content)
    return int(found.split()[1]), json.loads(found.partition(b"\r\n\r\n")[2])


def test_prefixes_are_counted_before_they_are_looked_at(server: Server, channel: grpc.Channel) -> None:
    words = "target_prefixes: 1000 in one request, the server takes 256"
    request = pb.TranslateRequest(model="toy", sources=["a"], target_prefixes=[""] * 1000)
    with pytest.raises(grpc.RpcError, match=words):
        pb_grpc.TranslationServiceStub(channel).Translate(request, timeout=20)
    body = {"model": "toy", "sources": ["a"], "targetPrefixes": [0] * 1000}  # which is never found out
    status, found = post(server, "/v1/translate", body)
    assert (status, found["error"].replace("targetP", "target_p")) == (400, words)


def test_a_version_of_any_length_is_not_found(channel: grpc.Channel) -> None:
    request = pb.TranslateRequest(model="toy", model_version=DIGITS, sources=["a"])
    with pytest.raises(grpc.RpcError) as caught:
        pb_grpc.TranslationServiceStub(channel).Translate(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_number_of_any_length_is_an_invalid_argument(channel: grpc.Channel) -> None:
    request = inference_pb2.ModelInferRequest(model_name="texts")
    request.inputs.add(name="inputs", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
    request.parameters["top_k"].string_param = DIGITS
    with pytest.raises(grpc.RpcError, match=r"parameters\.top_k: '9{70,}… is not a whole number") as caught:
        inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_id_that_cannot_be_repeated_is_refused_before_the_model_runs(server: Server) -> None:
    body = {"inputs": [{"name": "sources", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
    before = server.batches
    status, found = post(server, "/v2/models/toy/infer", {"id": "\ud800", **body})
    assert (status, found) == (400, {"error": "id: not Unicode text: lone surrogate at character 0"})
    assert server.batches == before
    status, found = post(server, "/v2/models/toy/infer", {"id": "\u4e00", **body})
    assert (status, found["id"]) == (200, "\u4e00")


def test_a_piece_that_is_no_text_is_refused(server: Server) -> None:
    body = {"inputs": [{"name": "sources", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
    status, found = post(server, "/v2/models/toy/infer", {**body, "parameters": {"suppress": '["\\ud800"]'}})
    assert (status, found) == (400, {"error": "parameters.suppress: not Unicode text: lone surrogate at character 0"})


@pytest.mark.parametrize(
    "path",
    ["/v1/translate", "/v1/classify", "/v2/models/toy/infer", "/v2/repository/index", "/v2/repository/models/toy/load"],
)
def test_a_body_that_does_not_come_is_the_fault_of_its_client(
    server: Server, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Its own reason: an alert goes by the deadlines that pass."""
    monkeypatch.setattr("t2tdeploy.serving.http.BODY_SECONDS", 0.2)
    before = rejects(server)
    connection = HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", path, b"{", {"Content-Length": "9"})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Connection")) == (408, "close")
        assert json.load(answer) == {"error": "request: its body did not arrive within 0.2 seconds"}
    assert rejects(server) - before == {"slow_body": 1}


def rejects(server: Server) -> Counter[str]:
    """Calls refused so far, by reason."""
    text = http(
        server.operations.metrics_port, b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ).decode()
    counted = re.findall(r't2tdeploy_rejects_total\{(?=[^}]*reason="(\w+)")[^}]*\} (\S+)', text)
    found = Counter[str]()
    for reason, count in counted:
        found[reason] += round(float(count))
    return found


@pytest.mark.parametrize("what", ["models", "metrics"])
@pytest.mark.parametrize(
    "content",
    [
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=["path", "version", "host", "header", "length", "tls"],
)
def test_what_is_no_http_fills_no_log(
    server: Server, caplog: pytest.LogCaptureFixture, what: str, content: bytes
) -> None:
    """Anybody can send it, without a token."""
    port = server.http_port if what == "models" else server.operations.metrics_port
    with caplog.at_level(logging.INFO):
        assert http(port, content).split()[1] == b"400"
    assert not caplog.records
