"""Classification through a server: answers are the local ones, whatever came in a batch; errors name the place."""

from __future__ import annotations

import base64
import http.client
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import PIL.Image
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format

from t2tdeploy.classifier import Classification, Classifier
from t2tdeploy.errors import RequestError, ServerError
from t2tdeploy.serving import classification_messages
from t2tdeploy.serving.bundle_source import BundleFolders
from t2tdeploy.serving.classification_client import ClassificationClient
from t2tdeploy.serving.client import Client, ClientOptions
from t2tdeploy.serving.inference.classification import ClassificationInterface
from t2tdeploy.serving.server import Server
from t2tdeploy.serving.v1 import classification_pb2 as pb
from t2tdeploy.serving.v1 import classification_pb2_grpc as pb_grpc
from tests.serving.running import ServerProcess, running
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import (
    LETTERS,
    write_image_classifier,
    write_table_classifier,
    write_tensor_regressor,
    write_text_classifier,
)

TEXTS = ["a", "", "abba", "ccccc", "dad", "Käse", "b" * 19, "dcba"]
ROWS: list[dict[str, Any]] = [
    {"width": 2, "colour": "red"},
    {"colour": "blue"},
    {"width": 0.5, "colour": "never seen"},
    {"width": None, "colour": 7},
]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
ARRAYS = np.random.default_rng(1).normal(size=(5, 2, 3))


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Models:
    """A server of several models, and the same on this machine."""

    server: Server
    local: dict[str, Classifier]

    def client(self, model: str, **options: Any) -> ClassificationClient:
        return ClassificationClient(f"127.0.0.1:{self.server.port}", ClientOptions(model=model, **options))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    folder = tmp_path_factory.mktemp("bundles")
    bundles = [
        write_text_classifier(folder / "texts", max_length=20),
        write_text_classifier(folder / "pairs", parts=2),
        write_table_classifier(folder / "table"),
        write_image_classifier(folder / "image"),
        write_tensor_regressor(folder / "regressor"),
    ]
    translator = write_toy_bundle(folder / "toy")
    source = BundleFolders([*(bundle.directory for bundle in bundles), translator.directory])
    with running(source, http_port=0, max_sentences_per_request=16) as server:
        yield Models(server, {bundle.directory.name: Classifier(bundle, threads=1) for bundle in bundles})


EXAMPLES: dict[str, list[Any]] = {
    "texts": TEXTS,
    "pairs": [("ab", "cd"), ["", "b"], {"inputs": ("c", "c")}],
    "table": ROWS,
    "image": [encoded(PIXELS[0]), PIXELS[1], {"inputs": PIXELS[2]}],
    "regressor": [*ARRAYS[:3], {"x": ARRAYS[3].tolist()}, ARRAYS[4].astype(np.float32)],
}


@pytest.mark.parametrize("model", EXAMPLES)
def test_a_served_answer_is_the_local_one(models: Models, model: str) -> None:
    local, examples = models.local[model], EXAMPLES[model]
    for top_k in (1, max(1, len(local.classes))):
        expected = local.classify(examples, top_k=top_k)
        with models.client(model, sentences_per_request=2) as client:
            assert client.classify(examples, top_k=top_k) == expected
            assert [client.classify([one], top_k=top_k)[0] for one in examples] == expected


def test_requests_that_want_more_or_fewer_classes_share_batches(models: Models) -> None:
    expected = models.local["texts"].classify(TEXTS, top_k=4)

    before = models.server.batches
    with models.client("texts") as client, ThreadPoolExecutor(16) as pool:

        def ask(place: int) -> bool:
            text, top_k = place % len(TEXTS), 1 + place % 4
            return client.classify([TEXTS[text]], top_k=top_k) == [expected[text].best(top_k)]

        assert all(pool.map(ask, range(256)))
    assert models.server.batches - before < 256


@pytest.mark.parametrize("carrier", ["grpc", "http"])
def test_too_many_examples_are_refused_unread(models: Models, monkeypatch: pytest.MonkeyPatch, carrier: str) -> None:
    monkeypatch.setattr(classification_messages, "_read_example", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(json_format, "ParseDict", lambda *_: pytest.fail("read"))
    server = models.server
    if carrier == "grpc":
        request = pb.ClassifyRequest(model="texts", examples=[pb.Example()] * 1000)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel, pytest.raises(grpc.RpcError) as caught:
            pb_grpc.ClassificationServiceStub(channel).Classify(request, timeout=20)
        found = caught.value.details()
    else:
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
        connection.request("POST", "/v1/classify", json.dumps({"model": "texts", "examples": [{}] * 1000}))
        found = json.loads(connection.getresponse().read())["error"]
        connection.close()
    assert found == "examples: 1000 in one request, the server takes 16"


def test_a_text_is_cut_if_asked_for(models: Models) -> None:
    with models.client("texts") as client:
        (found,) = client.classify(["b" * 50], truncate=True)
        assert found == models.local["texts"].classify(["b" * 50], truncate=True)[0]
        assert found.truncated
        with pytest.raises(RequestError, match=r"examples\[2\]\.inputs: 51 tokens, the model takes 20"):
            client.classify(["a", "b", "b" * 50])


@pytest.mark.parametrize(
    ("model", "examples", "options", "words"),
    [
        ("texts", ["a"], {"top_k": 5}, "options.top_k: 5 is not between 1 and 4"),
        ("texts", ["a"], {"top_k": 0}, "options.top_k: 0 is not between"),
        ("regressor", [ARRAYS[0]], {"top_k": 2}, "options.top_k: 2 is not between 1 and 1"),
        ("texts", [b"abc"], {}, r"examples\[0\]\.inputs: a string of bytes, where a text"),
        ("table", [ROWS[0], {"width": 1, "color": "red"}], {}, r"examples\[1\]\.color: no such feature"),
        ("table", ["red"], {}, r"examples\[0\]: one value, but an example has several features"),
        ("table", [{"width": "wide", "colour": "red"}], {}, r"examples\[0\]\.width: 'wide' is not a number"),
        ("image", [b"no image"], {}, r"examples\[0\]\.inputs: not an image"),
        ("pairs", ["ab"], {}, r"examples\[0\]\.inputs: 1 text, but it consists of 2"),
        ("toy", ["a"], {}, "model: the task of 'toy' is 'translate'"),
    ],
)
def test_what_is_not_valid_is_named(
    models: Models, model: str, examples: list[Any], options: dict[str, Any], words: str
) -> None:
    with (
        models.client(model, sentences_per_request=100) as client,
        pytest.raises(RequestError, match=f"^{words}"),
    ):
        client.classify(examples, **options)


def test_places_are_those_of_the_whole_list(models: Models) -> None:
    with models.client("table", sentences_per_request=2) as client:
        with pytest.raises(RequestError, match=r"^examples\[5\]\.width: 'x' is not"):
            client.classify([*ROWS, ROWS[0], {"width": "x", "colour": "red"}])
        with pytest.raises(RequestError, match=r"^examples\[4\]\.width: a object, which is neither"):
            client.classify([*ROWS, {"width": object()}])
    with models.client("texts", sentences_per_request=2) as client:
        with pytest.raises(RequestError, match=r"^examples\[3\]: not Unicode text"):
            client.classify(["a", "b", "c", "\ud800"])
        with pytest.raises(RequestError, match="examples: one example, where a list"):
            client.classify("abc")


def test_a_translator_is_not_asked_of_a_classifier_nor_the_other_way_round(models: Models) -> None:
    with (
        Client(f"127.0.0.1:{models.server.port}", ClientOptions(model="texts")) as client,
        pytest.raises(RequestError, match="model: the task of 'texts' is 'classify', not 'translate'"),
    ):
        client.translate(["a"])
    with models.client("nothing") as client, pytest.raises(ServerError, match="unknown model 'nothing'"):
        client.classify(["a"])


def test_models_are_listed_with_what_an_example_is(models: Models) -> None:
    with Client(f"127.0.0.1:{models.server.port}") as client:
        found = {one.name: one for one in client.models()}
    assert {name: one.task for name, one in found.items()} == {
        "texts": "classify",
        "pairs": "classify",
        "table": "classify",
        "image": "classify",
        "regressor": "regress",
        "toy": "translate",
    }
    assert found["texts"].classes == tuple(LETTERS)
    assert found["texts"].max_source_tokens == 20
    assert [(one.name, one.kind, one.may_be_missing) for one in found["table"].features] == [
        ("width", "number", True),
        ("colour", "category", False),
    ]
    assert found["image"].features[0].shape == (4, 4, 3)
    assert found["pairs"].features[0].parts == 2


def test_a_row_that_breaks_the_graph_is_lost_alone(tmp_path: Path) -> None:
    broken = write_text_classifier(tmp_path / "broken", known_ids=190)
    with running(broken, workers=1) as server:
        target = f"127.0.0.1:{server.port}"
        with ClassificationClient(target) as client, ThreadPoolExecutor(8) as pool:
            asked = ["ab", "\u00ff", "b", "c"] * 4  # ids of two bytes are not known
            futures = [pool.submit(client.classify, [text]) for text in asked]
            for text, future in zip(asked, futures, strict=True):
                if text == "\u00ff":
                    with pytest.raises(ServerError, match="INTERNAL"):
                        future.result()
                else:
                    assert future.result()[0].labels[0].name == text[0]


def test_a_full_queue_and_a_passed_deadline_have_their_statuses(tmp_path: Path) -> None:
    slow = write_text_classifier(tmp_path / "slow", slow_steps=40)
    limits = {"max_queue_sentences": 1, "max_sentences_per_request": 1, "max_batch_size": 1}
    with running(slow, **limits) as server:
        target = f"127.0.0.1:{server.port}"
        with ClassificationClient(target, ClientOptions(retries=0)) as client, ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(client.classify, ["a"]) for _ in range(8)]
            failed = [error for future in futures if (error := future.exception()) is not None]
        assert 0 < len(failed) < 8
        assert {getattr(error, "status", None) for error in failed} == {"RESOURCE_EXHAUSTED"}
        hurried = ClientOptions(timeout=0.001, retries=0)
        with ClassificationClient(target, hurried) as client, pytest.raises(ServerError, match="DEADLINE_EXCEEDED"):
            client.classify(["a"])


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"\xff\xff", "request: the bytes are not a ClassifyRequest"),
        (b"\x1a\x01\xff", r"texts\[0\]: not valid UTF-8"),
        (pb.ClassifyRequest(model="texts", texts=["a"], images=[b"b"]), "examples: texts and images are given"),
        (pb.ClassifyRequest(model="texts"), "examples: there is none"),
        (pb.ClassifyRequest(model="texts", texts=["a"], priority=9), "priority: 9 is not between"),
        (
            pb.ClassifyRequest(model="table", examples=[pb.Example(features={"width": pb.Value()})]),
            r"examples\[0\]\.width: no value",
        ),
        (
            pb.ClassifyRequest(
                model="regressor",
                examples=[pb.Example(features={"x": pb.Value(tensor=pb.Tensor(shape=[2, 3], numbers=[1, 2]))})],
            ),
            r"examples\[0\]\.x: 2 elements, but the shape is \[2, 3\]",
        ),
    ],
)
def test_messages_that_say_nothing_sensible_are_refused(models: Models, request_: Any, words: str) -> None:
    content = request_ if isinstance(request_, bytes) else request_.SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{models.server.port}") as channel:
        call = channel.unary_unary("/t2tdeploy.serving.v1.ClassificationService/Classify")
        with pytest.raises(grpc.RpcError, match=words) as caught:
            call(content, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def post(models: Models, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{models.server.http_port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read())


def test_json_over_http_says_the_same(models: Models) -> None:
    answer = post(models, "/v1/classify", {"model": "texts", "texts": TEXTS, "options": {"top_k": 2}})
    expected = models.local["texts"].classify(TEXTS, top_k=2)
    found = [[one["name"] for one in each["labels"]] for each in answer["classifications"]]
    assert found == [[one.name for one in each.labels] for each in expected]
    image = base64.b64encode(encoded(PIXELS[0])).decode()
    (answer,) = post(models, "/v1/classify", {"model": "image", "images": [image]})["classifications"]
    assert answer["labels"][0]["name"] == models.local["image"].classify([PIXELS[0]])[0].labels[0].name
    row = {"features": {"width": {"number": 2}, "colour": {"text": "red"}}}
    (answer,) = post(models, "/v1/classify", {"model": "table", "examples": [row]})["classifications"]
    assert answer["labels"][0] == {
        "name": "wide",
        "class_id": 0,
        "probability": answer["labels"][0]["probability"],
        "logit": 2,
    }
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(models, "/v1/classify", {"model": "texts", "texts": ["b" * 50]})
    assert caught.value.code == 400
    assert "examples[0].inputs: 51 tokens" in caught.value.read().decode()


def test_null_is_a_value_that_is_missing(models: Models) -> None:
    red = {"colour": {"text": "red"}}
    body: dict[str, Any] = {"model": "table", "examples": [{"features": {"width": None, **red}}, {"features": red}]}
    null, left_out = post(models, "/v1/classify", body)["classifications"]
    assert null == left_out


def infer(models: Models, model: str, parameters: dict[str, Any] | None = None, **inputs: np.ndarray) -> Any:
    kinds = {"O": "BYTES", "i": "INT64", "f": "FP32", "u": "UINT8"}
    tensors = []
    for name, values in inputs.items():
        tensor = triton.InferInput(name, values.shape, kinds[values.dtype.kind])
        tensors.append(tensor.set_data_from_numpy(values))
    with triton.InferenceServerClient(f"127.0.0.1:{models.server.port}") as client:
        return client.infer(model, tensors, parameters=parameters)


def test_tritonclient_gets_the_local_answers(models: Models) -> None:
    expected = models.local["texts"].classify(TEXTS, top_k=4)
    texts = np.array(TEXTS, object)
    answer = infer(models, "texts", {"top_k": 3}, inputs=texts.reshape(-1, 1))
    labels = answer.as_numpy("labels")
    assert [[one.decode() for one in row] for row in labels] == [
        [one.name for one in each.labels[:3]] for each in expected
    ]
    ids = answer.as_numpy("class_ids")
    for output, name in (("probabilities", "probability"), ("logits", "logit")):
        for row, each, places in zip(answer.as_numpy(output), expected, ids, strict=True):
            assert {one.class_id: getattr(one, name) for one in each.labels} == dict(enumerate(row.tolist()))
            assert places.tolist() == [one.class_id for one in each.labels[:3]]
    rows = [models.local["texts"].encode([text])[0].inputs["inputs_ids"] for text in TEXTS]
    padded = np.stack([np.pad(row, (0, 20 - len(row))) for row in rows])
    assert (infer(models, "texts", inputs_ids=padded).as_numpy("logits") == answer.as_numpy("logits")).all()
    assert (infer(models, "texts", inputs=texts).as_numpy("logits") == answer.as_numpy("logits")).all()


def test_tritonclient_sends_columns_images_and_arrays(models: Models) -> None:
    table = infer(models, "table", width=np.array([2, np.nan], np.float32), colour=np.array(["red", "blue"], object))
    assert table.as_numpy("logits").tolist() == [[2, 1, 0], [-1, 0, 1]]
    without = infer(models, "table", colour=np.array([["blue"]], object))
    assert without.as_numpy("logits").tolist() == [[-1, 0, 1]]
    expected = models.local["image"].classify([*PIXELS])
    files = np.array([[encoded(one)] for one in PIXELS], object)
    for answer in (infer(models, "image", inputs=files), infer(models, "image", inputs_pixels=PIXELS)):
        assert answer.as_numpy("class_ids")[:, 0].tolist() == [one.labels[0].class_id for one in expected]
    values = infer(models, "regressor", x=ARRAYS.astype(np.float32)).as_numpy("values")
    assert values.tolist() == [list(one.values) for one in models.local["regressor"].classify([*ARRAYS])]


@pytest.mark.parametrize(
    ("model", "parameters", "inputs", "words"),
    [
        ("texts", {"top_k": 9}, {"inputs": np.array([["a"]], object)}, "parameters.top_k: 9 is not between 1 and 4"),
        ("texts", {"topk": 1}, {"inputs": np.array([["a"]], object)}, "parameters: unknown name 'topk'"),
        ("texts", {}, {"input": np.array([["a"]], object)}, "inputs: unknown name 'input'"),
        ("texts", {}, {}, "inputs: inputs or inputs_ids is needed"),
        ("table", {}, {"width": np.zeros(2, np.float32), "colour": np.array(["a"], object)}, "not all of as many rows"),
        ("table", {}, {"width": np.zeros((2, 1), np.float32)}, "inputs: colour is needed"),
        ("regressor", {}, {"x": np.zeros((2, 3, 2), np.float32)}, r"x: shape \[2, 3, 2\]"),
        ("image", {}, {"inputs": np.array([[b"no"]], object)}, r"^\[.*\] inputs\[0\]: not an image"),
    ],
)
def test_tensors_that_are_not_those_of_the_model_are_refused(
    models: Models, model: str, parameters: dict[str, Any], inputs: dict[str, np.ndarray], words: str
) -> None:
    with pytest.raises(triton.InferenceServerException, match=words) as caught:
        infer(models, model, parameters, **inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_tensors_are_listed_for_every_model(models: Models) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{models.server.port}") as client:
        metadata = client.get_model_metadata("image", as_json=True)
        assert metadata["inputs"] == [{"name": "inputs", "datatype": "BYTES", "shape": ["-1", "1"]}]
        parameters = client.get_model_config("image", as_json=True)["config"]["parameters"]
        assert parameters["optional_inputs"] == {"string_value": "inputs_pixels UINT8 [-1, 4, 4, 3]"}
        for model in models.local:
            config = client.get_model_config(model, as_json=True)["config"]
            names = [spec.name for spec in ClassificationInterface(models.local[model]).inputs]
            assert len({*names}) == len(names)
            assert {one["name"] for one in config["output"]} >= ({"values"} if model == "regressor" else {"labels"})


def test_a_server_process_answers_as_local(tmp_path: Path) -> None:
    bundle = write_table_classifier(tmp_path / "table")
    with ServerProcess(bundle.directory) as server:
        target = f"127.0.0.1:{server.event('serving')['port']}"
        with ClassificationClient(target) as client:
            found: list[Classification] = client.classify(ROWS, top_k=3)
    assert found == Classifier(bundle, threads=1).classify(ROWS, top_k=3)
