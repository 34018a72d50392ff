"""Both clients of classification: what the blocking one answers and refuses, the one for asyncio does as well."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from t2tdeploy.classifier import Classification, Classifier
from t2tdeploy.errors import RequestError, ServerError
from t2tdeploy.serving.bundle_source import BundleFolders
from t2tdeploy.serving.classification_client import AsyncClassificationClient, ClassificationClient
from t2tdeploy.serving.classification_messages import SERVICE
from t2tdeploy.serving.client import ClientOptions
from t2tdeploy.serving.server import Server
from t2tdeploy.serving.v1 import classification_pb2 as pb
from tests.serving.running import answering, running, waiting_sentences
from tests.serving.test_classification import Models, encoded
from tests.serving.test_client import Counting, target_of
from tests.serving.toy_classifier import write_image_classifier, write_table_classifier, write_text_classifier

TEXTS = ["abcd"[number % 4] * (number % 17) + "abcd"[number % 3] * 2 for number in range(100)]
COLOURS = ("red", "blue", "never seen")
ROWS: list[dict[str, Any]] = [{"width": number, "colour": COLOURS[number % 3]} for number in range(60)]
PIXELS = np.random.default_rng(2).integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
EXAMPLES: dict[str, list[Any]] = {
    "texts": TEXTS,
    "table": [*ROWS, {"colour": "red"}],
    "image": [encoded(one) if place % 3 else one for place, one in enumerate(PIXELS)],
}

Classify = Callable[..., list[Classification]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    folder = tmp_path_factory.mktemp("bundles")
    bundles = [
        write_text_classifier(folder / "texts"),
        write_table_classifier(folder / "table"),
        write_image_classifier(folder / "image"),
    ]
    with running(BundleFolders([bundle.directory for bundle in bundles])) as server:
        yield Models(server, {bundle.directory.name: Classifier(bundle, threads=1) for bundle in bundles})


def options_of(model: str = "", **options: Any) -> ClientOptions:
    several = {"sentences_per_request": 7, "requests_in_flight": 3, "timeout": 20, "retries": 1}
    return ClientOptions(model=model, **{**several, **options})


def sync_classify(port: int, client_options: ClientOptions, examples: Any, **options: Any) -> list[Classification]:
    with ClassificationClient(target_of(port), client_options) as client:
        return client.classify(examples, **options)


def async_classify(port: int, client_options: ClientOptions, examples: Any, **options: Any) -> list[Classification]:
    async def call() -> list[Classification]:
        async with AsyncClassificationClient(target_of(port), client_options) as client:
            return await client.classify(examples, **options)

    return asyncio.run(call())


@pytest.fixture(params=[sync_classify, async_classify], ids=["sync", "async"])
def classify(request: pytest.FixtureRequest) -> Classify:
    found: Classify = request.param
    return found


@pytest.mark.parametrize("model", EXAMPLES)
def test_a_long_list_is_answered_as_the_classifier_does(classify: Classify, models: Models, model: str) -> None:
    examples, before = EXAMPLES[model], models.server.answers["OK"]
    for top_k in (1, 3):
        expected = models.local[model].classify(examples, top_k=top_k)
        assert classify(models.server.port, options_of(model), examples, top_k=top_k) == expected
    assert models.server.answers["OK"] - before == 2 * -(-len(examples) // 7)
    assert classify(models.server.port, options_of(model), []) == []


def test_a_text_is_cut_if_asked_for(classify: Classify, models: Models) -> None:
    texts = [*TEXTS, "b" * 50]
    found = classify(models.server.port, options_of("texts"), texts, truncate=True)
    assert found == models.local["texts"].classify(texts, truncate=True)
    assert [one.truncated for one in found] == [False] * len(TEXTS) + [True]


def test_progress_counts_every_example_once(classify: Classify, models: Models) -> None:
    reporter = Counting()
    classify(models.server.port, options_of("texts"), TEXTS, reporter=reporter)
    assert reporter.total == sum(reporter.done) == len(TEXTS)
    assert len(reporter.done) > 1, "it is told while the work goes on"


def test_answers_that_overtake_each_other_keep_the_order(classify: Classify) -> None:
    others = threading.Semaphore(0)

    def answer(request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        if request.texts[0] == "0":
            assert others.acquire(timeout=10)
            assert others.acquire(timeout=10)
        else:
            others.release()
        labels = [[pb.Label(name=text)] for text in request.texts]
        return pb.ClassifyResponse(classifications=[pb.Classification(labels=one) for one in labels])

    texts = [str(number) for number in range(5)]
    with answering(SERVICE, "Classify", answer, pb.ClassifyRequest, pb.ClassifyResponse) as port:
        found = classify(port, options_of(sentences_per_request=2), texts)
    assert [one.labels[0].name for one in found] == texts


@pytest.mark.parametrize(
    ("model", "examples", "options", "words"),
    [
        ("table", [*ROWS[:40], {"width": "wide", "colour": "red"}], {}, r"examples\[40\]\.width: 'wide' is not"),
        ("table", [*ROWS[:40], {"width": object()}], {}, r"examples\[40\]\.width: a object, which is neither"),
        ("texts", [*TEXTS[:3], "\ud800"], {}, r"examples\[3\]: not Unicode text"),
        ("texts", [*TEXTS[:30], "b" * 50], {}, r"examples\[30\]\.inputs: 51 tokens, the model takes 20"),
        ("image", [*PIXELS[:8], b"no image"], {}, r"examples\[8\]\.inputs: not an image"),
        ("texts", "abc", {}, "examples: one example, where a list"),
        ("table", ROWS[0], {}, "examples: one example, where a list"),
        ("texts", ["a"], {"top_k": 5}, "options.top_k: 5 is not between 1 and 4"),
        ("texts", ["a"], {"top_k": 2.0}, "options.top_k: 2.0 is not a whole number"),
    ],
)
def test_what_is_not_valid_is_named_by_its_place_in_the_whole_list(
    classify: Classify, models: Models, model: str, examples: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=f"^{words}"):
        classify(models.server.port, options_of(model), examples, **options)


def test_what_a_server_refuses_is_its_error(classify: Classify, models: Models) -> None:
    with pytest.raises(ServerError, match="unknown model 'nothing'") as caught:
        classify(models.server.port, options_of("nothing"), TEXTS)
    assert caught.value.status == "NOT_FOUND"
    with pytest.raises(ServerError) as caught:
        classify(models.server.port, options_of("texts", timeout=1e-6, retries=0), TEXTS)
    assert caught.value.status == "DEADLINE_EXCEEDED"


def test_a_full_server_is_tried_again_until_it_answers(
    classify: Classify, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = write_text_classifier(tmp_path_factory.mktemp("bundle") / "slow", slow_steps=10)
    limits = {"max_queue_sentences": 1, "max_sentences_per_request": 1}
    with running(bundle, **limits) as server:
        patient = options_of(sentences_per_request=1, requests_in_flight=8, retries=100, timeout=30)
        answers = classify(server.port, patient, TEXTS[:12])
        assert server.answers["RESOURCE_EXHAUSTED"] > 0
        with pytest.raises(ServerError) as caught:
            classify(server.port, options_of(sentences_per_request=1, requests_in_flight=8, retries=0), TEXTS)
    assert answers == Classifier(bundle, threads=1).classify(TEXTS[:12])
    assert caught.value.status == "RESOURCE_EXHAUSTED"


def test_cancelling_withdraws_what_is_under_way_and_sends_no_more(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = write_text_classifier(tmp_path_factory.mktemp("bundle") / "slow", slow_steps=100)

    async def cancel(server: Server) -> None:
        options = options_of(sentences_per_request=1, requests_in_flight=5)
        async with AsyncClassificationClient(target_of(server.port), options) as client:
            reporter = Counting()
            task = asyncio.create_task(client.classify(TEXTS, reporter=reporter))
            while waiting_sentences(server) < 4:
                assert not task.done()
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            deadline = time.monotonic() + 10
            while server.answers["CANCELLED"] < 4 or waiting_sentences(server):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            counted, done = sum(server.answers.values()), sum(reporter.done)
            assert [one.labels[0].name for one in await client.classify(["b"])] == ["b"], "the client goes on"
            assert sum(server.answers.values()) <= counted + 2 < len(TEXTS)
            assert sum(reporter.done) == done

    with running(bundle, max_batch_size=1) as server:
        asyncio.run(cancel(server))
