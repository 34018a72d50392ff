"""How a server leaves, as probes, balancers and supervisors see it."""

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import CorruptFileError
from t2tdeploy.progress import SilentReporter
from t2tdeploy.serving.bundle_source import BundleFolders
from t2tdeploy.serving.health import health_of
from t2tdeploy.serving.inference.v2 import inference_pb2 as inference
from t2tdeploy.serving.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.server import Server
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from tests.serving.repositories import put
from tests.serving.running import ServerProcess
from tests.serving.toy_bundle import small_tokenizer, write_toy_bundle

FOREVER = 3600
SLOW_STEPS, ENDLESS_STEPS = 10_000, 10**9


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_every_kind_of_readiness_ends_before_requests_are_refused(bundle: Bundle) -> None:
    with ServerProcess(bundle.directory, lame_duck_seconds=FOREVER, http_port=0, metrics_port=0) as server:
        serving = server.event("serving")
        with grpc.insecure_channel(f"127.0.0.1:{serving['port']}") as channel:
            open_inference, ours = GRPCInferenceServiceStub(channel), TranslationServiceStub(channel)

            def readiness() -> list[bool]:
                metrics = get(serving["metrics_port"], "/metrics")[1]
                return [
                    health_of(f"127.0.0.1:{serving['port']}", timeout=10) == "SERVING",
                    open_inference.ServerReady(inference.ServerReadyRequest(), timeout=10).ready,
                    open_inference.ModelReady(inference.ModelReadyRequest(name="toy"), timeout=10).ready,
                    get(serving["http_port"], "/v2/health/ready")[0] == 200,
                    get(serving["http_port"], "/v2/models/toy/ready")[0] == 200,
                    "t2tdeploy_ready 1.0" in metrics,
                ]

            assert readiness() == [True] * 6
            server.process.send_signal(signal.SIGTERM)
            server.event("stopping")
            assert readiness() == [False] * 6
            assert get(serving["http_port"], "/v2/models/toy/ready") == (503, '{"error":"the server is stopping"}')
            assert get(serving["http_port"], "/v2/models/other/ready")[0] == 404
            assert get(serving["http_port"], "/v2/health/live")[0] == 200
            assert ours.Translate(pb.TranslateRequest(sources=["a"]), timeout=10).translations
            assert get(serving["http_port"], "/v2/models/toy")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


@pytest.fixture
def loading(tmp_path: Path, bundle: Bundle) -> Callable[[int], Path]:
    """Makes a repository of a model that is loaded at once and one whose warm-up takes so many steps."""

    def make(steps: int) -> Path:
        put(bundle.directory, tmp_path / "models" / "a" / "1")
        put(write_toy_bundle(tmp_path / "slow", steps=steps).directory, tmp_path / "models" / "b" / "1")
        return tmp_path / "models"

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_models_load_ends_the_start(loading: Callable[[int], Path], number: signal.Signals) -> None:
    with ServerProcess(loading(SLOW_STEPS)) as server:
        assert server.event("loaded")["model"] == "a"
        server.process.send_signal(number)
        assert server.process.stdout
        rest = [json.loads(line) for line in server.process.stdout]
        assert [event["event"] for event in rest] == ["stopping", "stopped"]
        assert server.process.wait(60) == 0


def test_after_stopped_a_signal_does_not_wait_for_what_still_loads(loading: Callable[[int], Path]) -> None:
    with ServerProcess(loading(ENDLESS_STEPS)) as server:
        assert server.event("loaded")["model"] == "a"
        server.process.send_signal(signal.SIGTERM)
        server.event("stopped")
        deadline = time.monotonic() + 60
        while server.process.poll() is None and time.monotonic() < deadline:
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert server.process.poll() == -signal.SIGTERM


def test_a_load_that_was_asked_for_is_not_waited_for_longer_than_requests(tmp_path: Path, bundle: Bundle) -> None:
    put(bundle.directory, tmp_path / "models" / "a" / "1")
    with ServerProcess(tmp_path / "models", shutdown_grace_seconds=0.5) as server:
        port = server.event("serving")["port"]
        put(write_toy_bundle(tmp_path / "slow", steps=ENDLESS_STEPS).directory, tmp_path / "models" / "b" / "1")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            load = stub.RepositoryModelLoad.future(inference.RepositoryModelLoadRequest(model_name="b"), timeout=60)
            while "LOADING" not in str(stub.RepositoryIndex(inference.RepositoryIndexRequest(), timeout=10)):
                time.sleep(0.01)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.event("stopped")["unfinished"] == 1
            assert time.monotonic() - started < 20
            assert (load.code(), load.details()) == (
                grpc.StatusCode.UNAVAILABLE, "b cannot be loaded: the server is stopping"
            )  # fmt: skip


def test_a_start_that_fails_is_told_without_a_pause(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "small", tokenizer=small_tokenizer(), beam_size=16)
    events: list[tuple[str, dict[str, Any]]] = []

    class Listening(SilentReporter):
        def event(self, name: str, **data: Any) -> None:
            events.append((name, data))

    async def run() -> None:
        options = ServerOptions.create({"port": 0, "threads": 1, "lame_duck_seconds": FOREVER})
        server = Server(BundleFolders([bundle.directory]), options, Listening())
        with pytest.raises(CorruptFileError):
            await server.start()
        async with asyncio.timeout(60):
            await server.stop()

    asyncio.run(run())
    assert [name for name, _ in events] == ["broken", "stopping", "stopped"]
    assert events[1][1]["lame_duck_seconds"] == 0
