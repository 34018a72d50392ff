"""How a server leaves, as probes, balancers and supervisors see it."""

import signal
import urllib.error
import urllib.request

import grpc
import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.health import health_of
from t2tdeploy.serving.inference.v2 import inference_pb2 as inference
from t2tdeploy.serving.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from tests.serving.running import ServerProcess
from tests.serving.toy_bundle import write_toy_bundle

FOREVER = 3600


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
            assert get(serving["http_port"], "/v2/models/toy/ready")[0] == 503
            assert get(serving["http_port"], "/v2/models/other/ready")[0] == 404
            assert get(serving["http_port"], "/v2/health/live")[0] == 200
            assert ours.Translate(pb.TranslateRequest(sources=["a"]), timeout=10).translations
            assert get(serving["http_port"], "/v2/models/toy")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
