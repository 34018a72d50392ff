"""Lists of which some requests would be too large: both clients of translation and of classification cut them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.classifier import Classification, Classifier
from t2tdeploy.errors import RequestError
from t2tdeploy.serving.answering import FEWER_ROWS
from t2tdeploy.serving.client import Client, ClientOptions
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.row_requests import LARGEST_BYTES, Request
from t2tdeploy.serving.v1 import classification_pb2 as classification
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.translator import TranslateOptions, Translator
from tests.serving.attentive_bundle import write_attentive_bundle
from tests.serving.running import answering, running
from tests.serving.test_classification import encoded
from tests.serving.test_classification_client import async_classify, sync_classify
from tests.serving.test_client import SOURCES, Counting, async_translate, sync_translate, target_of
from tests.serving.toy_bundle import write_toy_bundle
from tests.serving.toy_classifier import write_image_classifier

MEGABYTE = 10**6
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
DEFAULTS = ClientOptions(timeout=30)
ROWS = ("texts", "images", "examples")

Translate = Callable[..., Any]
Classify = Callable[..., list[Classification]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_image_classifier(tmp_path_factory.mktemp("bundle") / "image")


@pytest.fixture(params=[sync_translate, async_translate], ids=["sync", "async"])
def translate(request: pytest.FixtureRequest) -> Translate:
    found: Translate = request.param
    return found


@pytest.fixture(params=[sync_classify, async_classify], ids=["sync", "async"])
def classify(request: pytest.FixtureRequest) -> Classify:
    found: Classify = request.param
    return found


def picture(place: int, size: int) -> bytes:
    """A PNG of so many bytes; what comes behind its end is not looked at."""
    return encoded(PIXELS[place]).ljust(size, b"\0")


def of_texts(*texts: str, **fields: Any) -> Request[classification.ClassifyRequest]:
    return Request(10, classification.ClassifyRequest(texts=texts, **fields), "examples", ROWS)


def test_requests_are_cut_by_rows_and_by_bytes() -> None:
    options = classification.ClassifyOptions(top_k=3, truncate=True)
    parts = list(of_texts("a", "b", "c", "d", "e", model="m", options=options, priority=-1).cut(2))
    assert [(part.first, list(part.message.texts)) for part in parts] == [
        (10, ["a", "b"]),
        (12, ["c", "d"]),
        (14, ["e"]),
    ]
    for part in parts:
        assert (part.message.model, part.message.options, part.message.priority) == ("m", options, -1)
    third = "ä" * (LARGEST_BYTES // 6 + 1)
    assert [part.count for part in of_texts(third, third, third, 9 * third, "a", "b").cut(32)] == [2, 1, 1, 2]
    assert list(of_texts().cut(32)) == []


def test_every_row_of_every_kind_is_in_one_half() -> None:
    message = pb.TranslateRequest(sources=["a", "b", "c"], target_prefixes=["x", "y", "z"])
    first, second = Request(5, message, "sources", ("sources", "target_prefixes")).halves()
    assert (first.first, first.message.sources, first.message.target_prefixes) == (5, ["a"], ["x"])
    assert (second.first, second.message.sources, second.message.target_prefixes) == (6, ["b", "c"], ["y", "z"])
    assert (first.only_row, first.halves(), second.only_row) == ("sources[5]", [], "")
    examples = [classification.Example(features={"a": classification.Value(number=1)}) for _ in range(3)]
    halves = Request(0, classification.ClassifyRequest(examples=examples), "examples", ROWS).halves()
    assert [one for half in halves for one in half.message.examples] == examples


@pytest.fixture
def server_of_images(images: Bundle) -> Iterator[int]:
    with running(images) as server:
        assert server.port
        yield server.port


def test_large_pictures_go_one_by_one(classify: Classify, images: Bundle, server_of_images: int) -> None:
    pictures = [picture(place, 3 * MEGABYTE) for place in range(6)]  # together more than gRPC itself reads
    assert classify(server_of_images, DEFAULTS, pictures) == Classifier(images, threads=1).classify(pictures)


@pytest.mark.parametrize(
    ("size", "words"),
    [(5 * MEGABYTE, "5000... bytes, the server takes"), (17 * MEGABYTE, "170000.. bytes, the server reads")],
)
def test_a_picture_that_is_too_large_is_named(classify: Classify, server_of_images: int, size: int, words: str) -> None:
    with pytest.raises(RequestError, match=rf"^examples\[3\]: {words}"):
        classify(server_of_images, DEFAULTS, [*(picture(place, 100) for place in range(3)), picture(3, size)])


@pytest.mark.parametrize(
    "limit", ["max_sentences_per_request=3", "max_tokens_per_request=200", "max_request_bytes=1024"]
)
def test_a_server_of_narrow_limits_answers_all_that_it_would_answer_one_by_one(
    translate: Translate, bundle: Bundle, limit: str
) -> None:
    name, value = limit.split("=")
    sources, reporter = [text + "x" * 80 for text in SOURCES[:5]] + SOURCES, Counting()
    sources = sources if name != "max_sentences_per_request" else SOURCES
    options = ClientOptions(sentences_per_request=100, timeout=30, retries=0)
    with running(bundle, **{name: int(value)}) as server:
        found = translate(server.port, sources, TranslateOptions(), options, reporter=reporter)
    assert found == Translator(bundle, threads=1).translate(sources)
    assert sum(reporter.done) == reporter.total == len(sources)


def test_more_than_grpc_reads_is_asked_in_halves(translate: Translate, bundle: Bundle) -> None:
    sources = ["y" * 150 for _ in range(60)]
    with running(bundle, max_request_bytes=1024) as server:
        found = translate(server.port, sources, TranslateOptions(), ClientOptions(sentences_per_request=60, timeout=30))
    assert [one[0].text for one in found] == sources


def test_what_an_answer_may_hold_bounds_its_sources(
    translate: Translate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2tdeploy.serving.frontend.MAX_DETAILS", 300)
    options = TranslateOptions(num_hypotheses=4, return_tokens=True)
    with running(write_attentive_bundle(tmp_path / "toy")) as server:
        found = translate(server.port, ["ab"] * 20, options)
        assert [[token.piece for token in one[0].details][:2] for one in found] == [["<0x61>", "<0x62>"]] * 20
        with pytest.raises(RequestError, match=r"^options\.return_tokens: up to 356 numbers in one answer"):
            translate(server.port, ["a" * 38] * 8, options)


def test_places_are_those_of_the_whole_list(translate: Translate, bundle: Bundle) -> None:
    sources = ["a"] * 20 + ["x" * 500]
    with running(bundle, max_sentences_per_request=2, max_request_bytes=1024) as server:
        with pytest.raises(RequestError, match=r"^sources\[20\]: 501 tokens, the model takes 200"):
            translate(server.port, sources)
        sources[20] = "x" * 1100
        with pytest.raises(RequestError, match=r"^sources\[20\]: 11.. bytes, the server takes 1024"):
            translate(server.port, sources)


def test_prefixes_stay_with_their_sources() -> None:
    def answer(request: pb.TranslateRequest, context: grpc.ServicerContext) -> pb.TranslateResponse:
        if len(request.sources) > 2:
            context.set_trailing_metadata(((FEWER_ROWS, "1"),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sources: many")
        texts = map("".join, zip(request.target_prefixes, request.sources, strict=True))
        return pb.TranslateResponse(
            translations=[pb.Translation(hypotheses=[pb.Hypothesis(text=one)]) for one in texts]
        )

    prefixes = [f"{place}: " for place in range(20)]
    with (
        answering(SERVICE, "Translate", answer, pb.TranslateRequest, pb.TranslateResponse) as port,
        Client(target_of(port), DEFAULTS) as client,
    ):
        found = client.translate(SOURCES[:20], target_prefixes=prefixes)
    assert [one[0].text for one in found] == list(map("".join, zip(prefixes, SOURCES, strict=False)))


def test_only_what_is_refused_for_its_size_is_halved(translate: Translate) -> None:
    """And each half may be tried as often as any request."""
    asked: list[list[str]] = []

    def answer(request: pb.TranslateRequest, context: grpc.ServicerContext) -> pb.TranslateResponse:
        asked.append(list(request.sources))
        if len(request.sources) > 2:
            context.set_trailing_metadata(((FEWER_ROWS, "1"),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sources: 4 in one request, the server takes 2")
        if asked.count(list(request.sources)) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is starting")
        if "d" in request.sources:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sources[1]: bad")
        return pb.TranslateResponse(translations=[pb.Translation() for _ in request.sources])

    with (
        answering(SERVICE, "Translate", answer, pb.TranslateRequest, pb.TranslateResponse) as port,
        pytest.raises(RequestError, match=r"^sources\[3\]: bad"),
    ):
        translate(port, ["a", "b", "c", "d"], TranslateOptions(), ClientOptions(retries=1, timeout=20))
    assert asked == [["a", "b", "c", "d"], ["a", "b"], ["a", "b"], ["c", "d"], ["c", "d"]]
