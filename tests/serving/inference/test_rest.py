"""tritonclient over HTTP, unmodified, against a real server."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.repository import ModelRepository
from tests.serving.inference.conftest import Served
from tests.serving.inference.test_service import OPTIONS, SOURCES, USUAL, require_local_answer
from tests.serving.running import running, starting

pytest.importorskip("geventhttpclient", reason="tritonclient[http] is not installed")

import tritonclient.http as triton


@pytest.fixture(scope="module")
def client(served: Served):
    with triton.InferenceServerClient(served.http) as client:
        yield client


def http_tensor(name: str, values: list, dtype=object, *, binary: bool = True):
    array = np.array(values, dtype)
    found = triton.InferInput(name, array.shape, "BYTES" if dtype is object else "INT64")
    return found.set_data_from_numpy(array, binary_data=binary)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("binary", [False, True])
def test_the_server_answers_as_the_translator_does(served: Served, client, options: dict, binary: bool) -> None:
    options = {name: float(value) if isinstance(value, str) else value for name, value in options.items()}
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in USUAL]
    for asked in (None, outputs):
        inputs = [http_tensor("sources", SOURCES, binary=binary)]
        result = client.infer("toy", inputs, outputs=asked, request_id="7", parameters=options)
        if binary or asked is None:
            require_local_answer(served, result, SOURCES, options)
        assert result.get_response()["id"] == "7"
        texts = result.as_numpy("texts")[:, 0].tolist()
        assert [one.decode() if isinstance(one, bytes) else one for one in texts] == [
            hypotheses[0].text for hypotheses in served.translator.translate(SOURCES, **options)
        ]


def test_packed_bodies_are_read(served: Served, client) -> None:
    for algorithm in ("gzip", "deflate"):
        result = client.infer("toy", [http_tensor("sources", SOURCES)], request_compression_algorithm=algorithm)
        require_local_answer(served, result, SOURCES, {})


def test_the_same_is_told_as_over_grpc(served: Served, client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert not client.is_model_ready("tay")
    assert client.get_server_metadata()["name"] == "t2tdeploy"
    metadata = client.get_model_metadata("toy", "1")
    assert metadata["inputs"] == [{"name": "sources", "datatype": "BYTES", "shape": [-1, 1]}]
    assert client.get_model_config("toy")["max_batch_size"] == 16
    assert client.get_model_repository_index() == [{"name": "toy", "version": "1", "state": "READY", "reason": ""}]
    for statistics in (client.get_inference_statistics("toy"), client.get_inference_statistics()):
        assert [one["name"] for one in statistics["model_stats"]] == ["toy"]


@pytest.mark.parametrize(
    ("model", "inputs", "parameters", "status", "words"),
    [
        ("tay", [http_tensor("sources", ["a"])], {}, "404", "unknown model 'tay'"),
        ("toy", [http_tensor("source", ["a"])], {}, "400", "inputs: unknown name 'source'"),
        ("toy", [http_tensor("sources", ["a"])], {"beam_size": 0}, "400", "parameters.beam_size: 0 is not between"),
        ("toy", [http_tensor("sources", [])], {}, "400", "sources: there is none"),
        ("toy", [http_tensor("sources", ["x" * 300], binary=False)], {}, "400", r"sources\[0\]: 301 tokens"),
    ],
)
def test_what_is_wrong_is_told(client, model: str, inputs: list, parameters: dict, status: str, words: str) -> None:
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.infer(model, inputs, parameters=parameters)
    assert caught.value.status() == status


def test_a_model_cannot_be_loaded_by_name_alone_if_it_is_not_there(client) -> None:
    client.load_model("toy")
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="unknown model 'tay'") as caught:
            call("tay")
        assert caught.value.status() == "404"


def test_what_json_cannot_write_is_null(served: Served) -> None:
    """The score of a hypothesis that is not there: a blank source has only one."""
    body = {
        "inputs": [{"name": "sources", "datatype": "BYTES", "shape": [1], "data": [""]}],
        "parameters": {"num_hypotheses": 2},
    }
    request = urllib.request.Request(f"http://{served.http}/v2/models/toy/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        outputs = {one["name"]: one["data"] for one in json.load(response, parse_constant=pytest.fail)["outputs"]}
    assert outputs["scores"] == [0.0, None]
    assert outputs["lengths"] == [1, 0]


def infer(address: str, path: str, **fields: object) -> tuple[int, dict]:
    """Status and JSON of an answer to a body with one source."""
    body = {"inputs": [{"name": "sources", "datatype": "BYTES", "shape": [1], "data": ["a"]}], **fields}
    request = urllib.request.Request(f"http://{address}/v2/models/{path}/infer", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def aliased(bundle: Bundle) -> Iterator[str]:
    with running(bundle, http_port=0, aliases=["production=toy:1"]) as server:
        yield f"127.0.0.1:{server.http_port}"


@pytest.mark.parametrize("path", ["toy", "toy/versions/1", "production"])
def test_a_body_may_name_the_model_and_version_of_its_path(aliased: str, bundle: Bundle, path: str) -> None:
    """KServe's clients always do."""
    for name in {path.split("/")[0], "toy"}:
        for version in (None, "", "1", bundle.version):
            status, answer = infer(aliased, path, id="7", model_name=name, model_version=version)
            assert (status, answer.get("model_name"), answer.get("id")) == (200, "toy", "7")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_name": "tay"}, "model_name: 'tay', but the path is that of toy (leave it out, or write toy)"),
        ({"model_name": 7}, "request.model_name: not a text"),
        ({"model_version": "2"}, "model_version: '2', but the path is that of version 1 (leave it out, or write 1)"),
        ({"model_version": 1}, "request.model_version: not a text"),
    ],
)
def test_a_body_of_another_model_than_its_path_is_refused(aliased: str, fields: dict, words: str) -> None:
    assert infer(aliased, "toy", **fields) == (400, {"error": words})


def test_the_repository_takes_null_for_nothing(aliased: str) -> None:
    for path, fields in (("index", {"ready": None}), ("models/toy/load", {"parameters": None})):
        request = urllib.request.Request(f"http://{aliased}/v2/repository/{path}", json.dumps(fields).encode())
        urllib.request.urlopen(request, timeout=10).close()


def test_before_it_serves_the_server_says_that_it_is_starting(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    start, may_load = ModelRepository.start, threading.Event()

    async def held(repository: ModelRepository) -> None:
        await asyncio.to_thread(may_load.wait, 60)
        await start(repository)

    monkeypatch.setattr(ModelRepository, "start", held)
    with starting(bundle, http_port=0) as (server, ready):
        try:
            while server.http_port is None:
                time.sleep(0.001)
            for path in ("models/toy/ready", "models/toy/versions/1/ready", "models/tay/ready", "models/toy"):
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/{path}", timeout=10)
                assert caught.value.code == 503
                assert json.load(caught.value) == {"error": "the server is starting"}
        finally:
            may_load.set()
        ready()
        urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/models/toy/ready", timeout=10).close()
