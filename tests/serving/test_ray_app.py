"""TranslationService behind Ray's gRPC proxy, on a cluster of two nodes of this machine. `make test-ray` runs this."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.decoding import TranslateOptions
from t2tdeploy.errors import RequestError, ServerError
from t2tdeploy.serving.client import Client, ClientOptions
from t2tdeploy.serving.health import health_of
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.translator import Translator
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)"),
]
SOURCES = [f"sentence {number}" for number in range(50)]
SLOW = TranslateOptions(extra_length=150)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy", steps=20)


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[str]:
    """host:port of Ray's proxy; two nodes of a CPU each have a replica each."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster
    from ray.serve.config import gRPCOptions

    from t2tdeploy.serving.ray_app import app

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        services = gRPCOptions(port=port, grpc_servicer_functions=["t2tdeploy.serving.ray_app.add_services"])
        serve.start(proxy_location="HeadOnly", grpc_options=services, http_options={"port": 0})
        arguments = {"bundle": str(bundle.directory), "min_replicas": "2", "options": "max_queue_sentences=40,"}
        arguments["options"] += "max_sentences_per_request=32"
        serve.run(app(arguments), name="t2tdeploy", route_prefix="/")
        yield f"127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def status_of_call(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def replicas() -> dict[int, str]:
    """Process -> node of every live replica."""
    from ray.util.state import list_actors

    alive = list_actors(filters=[("state", "=", "ALIVE"), ("class_name", "=", "ServeReplica:t2tdeploy:translation")])
    return {actor.pid: actor.node_id for actor in alive}


def test_answers_are_those_of_the_bundle(server: str, bundle: Bundle) -> None:
    with Client(server, ClientOptions(sentences_per_request=7)) as client:
        assert client.translate(SOURCES) == Translator(bundle, threads=1).translate(SOURCES)
        (model,) = client.models()
        assert (model.name, model.version) == ("toy", bundle.version)


def test_documents_stream_as_from_a_server(server: str, bundle: Bundle) -> None:
    document = "One sentence. Another one!\n\nA third."
    with running(bundle) as plain, Client(server) as behind_ray, Client(f"127.0.0.1:{plain.port}") as client:
        expected = list(client.translate_document(document))
        assert len(expected) >= 3
        assert list(behind_ray.translate_document(document)) == expected
        with pytest.raises(RequestError, match=r"options.beam_size"):
            list(behind_ray.translate_document(document, TranslateOptions(beam_size=99)))


def test_every_node_has_a_replica(server: str) -> None:
    assert len(set(replicas().values())) == 2


def test_errors_keep_their_statuses(server: str) -> None:
    with Client(server, ClientOptions(retries=0)) as client:
        with pytest.raises(RequestError, match=r"sources\[1\]: 301 tokens"):
            client.translate(["a", "x" * 300])
        with pytest.raises(RequestError, match=r"options.beam_size"):
            client.translate(["a"], TranslateOptions(beam_size=99))
    with Client(server, ClientOptions(model="other")) as client, pytest.raises(ServerError, match="unknown model"):
        client.translate(["a"])
    with grpc.insecure_channel(server) as channel:
        for content, code in ((b"\xff\xff", "INVALID_ARGUMENT"), (b"\x12\x01\xff", "INVALID_ARGUMENT")):
            error = status_of_call(lambda content=content: channel.unary_unary(f"/{SERVICE}/Translate")(content))
            assert error.code().name == code
        error = status_of_call(lambda: channel.unary_unary(f"/{SERVICE}/Nothing")(b""))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_health(server: str) -> None:
    assert health_of(server, timeout=10) == "SERVING"


def test_a_full_queue_says_when_to_come_back(server: str) -> None:
    """With the metadata that the client waits for, through Ray's proxy."""
    from t2tdeploy.serving.messages import write_request

    message = write_request("", SOURCES[:32], SLOW, ()).SerializeToString()
    with grpc.insecure_channel(server) as channel, ThreadPoolExecutor(12) as pool:
        call = channel.unary_unary(f"/{SERVICE}/Translate")
        outcomes = [pool.submit(call, message, timeout=60) for _ in range(12)]
        errors = [error for outcome in outcomes if isinstance(error := outcome.exception(), grpc.RpcError)]
    assert 0 < len(errors) < 12
    for error in errors:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(error.trailing_metadata())["retry-after-ms"]) > 0


def test_a_deadline_that_passes_leaves_nothing_behind(server: str) -> None:
    with Client(server, ClientOptions(timeout=0.3, retries=0)) as client:
        with pytest.raises(ServerError) as caught:
            client.translate(SOURCES[:32], TranslateOptions(alpha=10.0))  # takes minutes
        assert caught.value.status == "DEADLINE_EXCEEDED"
    with Client(server, ClientOptions(timeout=20)) as client:
        for _ in range(4):  # on both replicas: the batch that nobody waits for was stopped
            client.translate(["a"])


def test_requests_go_on_when_a_replica_is_killed(server: str) -> None:
    """What is on the killed replica comes back as INTERNAL, by Ray's proxy; what follows goes to the other one."""
    before = replicas()
    victim = next(iter(before))
    statuses: list[tuple[float, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with Client(server, ClientOptions(timeout=20)) as client:
            while not stop.is_set():
                try:
                    client.translate(["a", "b"])
                    statuses.append((time.monotonic(), "OK"))
                except ServerError as error:
                    statuses.append((time.monotonic(), error.status))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    deadline = killed + 60
    while not (len(now := replicas()) == 2 and victim not in now):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for when, status in statuses if when < killed} == {"OK"}
    failed = [when - killed for when, status in statuses if status != "OK"]
    assert len(failed) <= len(threads)  # each had one request under way
    assert {status for _, status in statuses} <= {"OK", "INTERNAL"}
    assert sum(when > killed for when, _ in statuses) > 2 * len(threads)


def test_the_committed_configuration_is_one(bundle: Bundle) -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from t2tdeploy.serving.ray_app import app

    content = yaml.safe_load((Path(__file__).parents[2] / "deploy/ray/serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(content).applications
    assert application.import_path == "t2tdeploy.serving.ray_app:app"
    app({**application.args, "bundle": str(bundle.directory)})
