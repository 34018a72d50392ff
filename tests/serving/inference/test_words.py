"""What is wrong is told in the names and shapes of the request, whatever carried it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from t2tdeploy.serving.bundle_source import BundleFolders
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb
from t2tdeploy.serving.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from t2tdeploy.serving.server import Server
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import write_image_classifier, write_table_classifier, write_text_classifier

FIELDS = {"BYTES": "bytes_contents", "FP32": "fp32_contents", "INT64": "int64_contents"}

Input = tuple[str, str, list[int], list[Any] | bytes]
"""Name, datatype, shape and elements, or raw bytes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bundles")
    bundles = [
        write_toy_bundle(folder / "toy"),
        write_text_classifier(folder / "texts"),
        write_table_classifier(folder / "table"),
        write_image_classifier(folder / "image"),
    ]
    source = BundleFolders([one.directory for one in bundles])
    with running(source, http_port=0, max_sentences_per_request=4, max_tokens_per_request=12) as server:
        yield server


def by_grpc(server: Server, model: str, inputs: list[Input], outputs: list[str]) -> str:
    """What is said of a request that is refused."""
    request = pb.ModelInferRequest(model_name=model)
    for name, datatype, shape, content in inputs:
        one = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if isinstance(content, bytes):
            request.raw_input_contents.append(content)
        else:
            values = [each.encode() if isinstance(each, str) else each for each in content]
            getattr(one.contents, FIELDS[datatype]).extend(values)
    for name in outputs:
        request.outputs.add(name=name)
    with (
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


def by_http(server: Server, model: str, inputs: list[Input], outputs: list[str]) -> str:
    """What is said of a request that is refused."""
    written, raw = [], b""
    for name, datatype, shape, content in inputs:
        if isinstance(content, bytes):
            rest: dict[str, Any] = {"parameters": {"binary_data_size": len(content)}}
            raw += content
        else:
            rest = {"data": content}
        written.append({"name": name, "datatype": datatype, "shape": shape, **rest})
    header = json.dumps({"inputs": written, "outputs": [{"name": name} for name in outputs]}).encode()
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/infer"
    request = urllib.request.Request(url, header + raw, {"Inference-Header-Content-Length": str(len(header))})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400
    return str(json.load(caught.value)["error"])


SOURCES: Input = ("sources", "BYTES", [1], ["a"])
FAULTS: dict[str, tuple[str, list[Input], list[str], str]] = {
    "an output asked for twice": (
        "toy",
        [SOURCES],
        ["texts", "scores", "texts"],
        "outputs: 'texts' is asked for twice",
    ),
    "a row whose bytes end": (
        "toy",
        [("sources", "BYTES", [1], b"abc")],
        [],
        "sources: 3 bytes cannot hold the 1 elements of shape [1]",
    ),
    "rows of too few bytes": (
        "table",
        [("width", "FP32", [2], b"\0" * 4), ("colour", "BYTES", [2, 1], b"\0" * 8)],
        [],
        "width: 4 bytes, but FP32 of shape [2] has 8",
    ),
    "a negative number of rows": ("toy", [("sources", "BYTES", [-1], ["a"])], [], "sources: shape [-1] has a negative"),
    "no row": ("toy", [("sources", "BYTES", [0], [])], [], "sources: there is none"),
    "no row of ids": ("toy", [("source_ids", "INT64", [0, 3], [])], [], "source_ids: there is none"),
    "ids beyond the vocabulary": ("toy", [("source_ids", "INT64", [1, 2], [7000, 1])], [], "source_ids[0]: 7000 at"),
    "too many ids": ("toy", [("source_ids", "INT64", [3, 5], [5, 5, 5, 5, 1] * 3)], [], "source_ids: 15 tokens in one"),
    "no example": ("texts", [("inputs_ids", "INT64", [0, 3], [])], [], "inputs_ids: there is none"),
    "no row of a table": ("table", [("width", "FP32", [0], []), ("colour", "BYTES", [0], [])], [], "inputs: there is"),
    "too many tokens": ("texts", [("inputs", "BYTES", [2], ["a" * 9] * 2)], [], "inputs: 20 tokens in one request"),
    "a text that is too long": ("texts", [("inputs", "BYTES", [2], ["a", "a" * 50])], [], "inputs[1]: 51 tokens, the"),
    "an id of no token": ("texts", [("inputs_ids", "INT64", [1, 2], [7000, 1])], [], "inputs_ids[0]: 7000 at place 0"),
    "no picture": ("image", [("inputs", "BYTES", [1], ["no picture"])], [], "inputs[0]: not an image: neither PNG"),
}


@pytest.mark.parametrize("ask", [by_grpc, by_http])
@pytest.mark.parametrize("fault", FAULTS)
def test_errors_speak_of_what_was_sent(server: Server, ask: Any, fault: str) -> None:
    model, inputs, outputs, words = FAULTS[fault]
    assert ask(server, model, inputs, outputs).startswith(words)
