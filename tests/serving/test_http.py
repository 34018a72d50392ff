"""JSON over HTTP, as curl speaks it, against a real server."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import OperationalError
from t2tdeploy.serving.server import Server
from t2tdeploy.translator import Translator
from tests.serving.running import running, starting
from tests.serving.toy_bundle import ENDLESS_ALPHA, write_toy_bundle

LIMIT = 20_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def server(bundle: Bundle):
    with running(bundle, http_port=0, max_request_bytes=LIMIT, max_sentences_per_request=16) as server:
        yield server


def ask(server: Server, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    found = json.loads(response.read())
    connection.close()
    return response.status, found, dict(response.getheaders())


@pytest.mark.parametrize("options", [{}, {"num_hypotheses": 3, "alpha": 0.25, "beamSize": 5}, {"truncate": True}])
def test_the_json_twin_answers_as_the_translator_does(server: Server, bundle: Bundle, options: dict) -> None:
    sources = ["Ein Haus.", "", "日本語", "x" * (300 if "truncate" in options else 20)]
    status, found, _ = ask(server, "POST", "/v1/translate", {"sources": sources, "options": options})
    assert status == 200
    options = {"beam_size" if name == "beamSize" else name: value for name, value in options.items()}
    expected = Translator(bundle, threads=1).translate(sources, **options)
    for translation, hypotheses in zip(found["translations"], expected, strict=True):
        assert [one["text"] for one in translation["hypotheses"]] == [one.text for one in hypotheses]
        assert [one["score"] for one in translation["hypotheses"]] == pytest.approx([one.score for one in hypotheses])
        assert [one["finished"] for one in translation["hypotheses"]] == [one.finished for one in hypotheses]
    assert found["translations"][3]["truncated"] is ("truncate" in options)
    assert (found["model"], found["model_version"]) == ("toy", bundle.version)


def test_the_models_are_listed(server: Server) -> None:
    status, found, _ = ask(server, "GET", "/v1/models")
    assert status == 200
    assert [one["name"] for one in found["models"]] == ["toy"]
    assert found["models"][0]["limits"]["max_sentences"] == 16


BAD_CALLS = {
    "no JSON": ("/v1/translate", b"{", 400, "request: "),
    "no UTF-8": ("/v1/translate", b'{"sources": ["\xff"]}', 400, "request: not valid UTF-8"),
    "a list": ("/v1/translate", b"[]", 400, "request: "),
    "brackets without end": ("/v1/translate", b"[" * 10_000, 400, "request: "),
    "an unknown field": ("/v1/translate", {"source": ["a"]}, 400, "request: "),
    "no source": ("/v1/translate", {}, 400, "sources: there is none"),
    "too many": ("/v1/translate", {"sources": ["a"] * 17}, 400, "sources: 17 in one request"),
    "an option out of range": (
        "/v1/translate",
        {"sources": ["a"], "options": {"beam_size": 0}},
        400,
        "options.beam_size",
    ),
    "an unknown model": ("/v1/translate", {"sources": ["a"], "model": "tay"}, 404, "unknown model 'tay'"),
    "too large": ("/v1/translate", b" " * (LIMIT + 1), 400, "request: 20001 bytes, the server takes 20000"),
    "far too large": ("/v1/translate", b" " * (4 * LIMIT + 1), 413, "request: more than 80000 bytes"),
    "a path that is not there": ("/v1/translat", {}, 404, "there is nothing at /v1/translat"),
    "a page that is only read": ("/v1/models", {}, 405, "/v1/models answers GET, not POST"),
    "packed bytes that are none": ("/v1/translate", b"xx", 400, "request: the body cannot be decoded"),
}


@pytest.mark.parametrize("fault", BAD_CALLS)
def test_what_is_wrong_is_told_in_json(server: Server, fault: str) -> None:
    path, body, expected, words = BAD_CALLS[fault]
    headers = {"Content_Encoding": "gzip"} if fault.startswith("packed") else {}
    status, found, _ = ask(server, "POST", path, body, **headers)
    assert (status, list(found)) == (expected, ["error"])
    assert found["error"].startswith(words)


def test_a_timeout_header_ends_a_request(server: Server) -> None:
    endless = {"sources": ["a"], "options": {"alpha": ENDLESS_ALPHA}}
    status, found, _ = ask(server, "POST", "/v1/translate", endless, Grpc_Timeout="200m")
    assert (status, found) == (504, {"error": "the deadline passed"})
    status, found, _ = ask(server, "POST", "/v1/translate", endless, Grpc_Timeout="soon")
    assert status == 400
    assert found["error"].startswith("Grpc-Timeout: 'soon' is not a number with a unit")


def test_a_client_that_goes_away_leaves_nothing_behind(server: Server) -> None:
    cancelled = server.answers["CANCELLED"]
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    connection.request("POST", "/v1/translate", json.dumps({"sources": ["a"], "options": {"alpha": ENDLESS_ALPHA}}))
    time.sleep(0.2)
    connection.close()
    deadline = time.monotonic() + 10
    while server.answers["CANCELLED"] == cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.answers["CANCELLED"] == cancelled + 1
    assert ask(server, "POST", "/v1/translate", {"sources": ["a"]})[0] == 200  # the only worker is free again


def test_a_full_queue_is_429_with_a_hint(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "slow", steps=50)
    limits = {"max_queue_sentences": 2, "max_sentences_per_request": 1, "max_batch_size": 1}
    with running(bundle, http_port=0, **limits) as server, ThreadPoolExecutor(12) as pool:
        body = {"sources": ["a"], "options": {"extra_length": 20}}
        answers = list(pool.map(lambda _: ask(server, "POST", "/v1/translate", body), range(12)))
    assert {status for status, _, _ in answers} == {200, 429}
    for status, found, headers in answers:
        if status == 429:
            assert found == {"error": "the queue is full"}
            assert int(headers["Retry-After"]) >= 1
            assert int(headers["retry-after-ms"]) > 0


def test_a_starting_server_is_503(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", steps=1000)
    with starting(bundle, http_port=0) as (server, ready):
        while server.http_port is None:
            time.sleep(0.005)
        assert ask(server, "GET", "/v2/health/live")[:2] == (200, {"live": True})
        assert ask(server, "GET", "/v2/health/ready")[:2] == (503, {"ready": False})
        assert ask(server, "POST", "/v1/translate", {"sources": ["a"]})[0] == 503
        ready()
        assert ask(server, "GET", "/v2/health/ready")[:2] == (200, {"ready": True})


def test_a_failing_model_is_500_with_an_id(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", known_ids=100)  # fails on bytes beyond
    with running(bundle, http_port=0) as server:
        status, found, _ = ask(server, "POST", "/v1/translate", {"sources": ["日本語"]})
    assert status == 500
    assert found["error"].startswith("internal error ")
    assert "Traceback" not in found["error"]


def test_accepted_requests_are_answered_before_the_port_closes(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "slow", steps=50)
    body = {"sources": ["a"], "options": {"extra_length": 50}}
    with ThreadPoolExecutor(1) as pool:
        with running(bundle, http_port=0) as server:
            asked = pool.submit(ask, server, "POST", "/v1/translate", body)
            while not server.repository.models()[0].scheduler.state().running_batches:
                time.sleep(0.005)
        assert server.http_port is not None
        assert asked.result()[0] == 200


def test_a_port_that_is_taken_is_named(server: Server, bundle: Bundle) -> None:
    with (
        pytest.raises(OperationalError, match=f"cannot listen on 127.0.0.1 port {server.http_port}"),
        running(bundle, http_port=server.http_port),
    ):
        pass


def test_without_an_http_port_there_is_none(bundle: Bundle) -> None:
    with running(bundle) as server:
        assert server.http_port is None
