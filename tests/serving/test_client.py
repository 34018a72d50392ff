import asyncio
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import RequestError, ServerError
from t2tdeploy.progress import SilentReporter, Task
from t2tdeploy.serving.client import AsyncClient, Client, ClientOptions
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.server import Server
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.translator import BUNDLE_DEFAULTS, Hypothesis, TranslateOptions, Translator
from tests.serving.running import ServerProcess, answering, running, waiting_sentences
from tests.serving.toy_bundle import ENDLESS_ALPHA, write_toy_bundle

SOURCES = [f"sentence {number} " + "x" * (number * 17 % 50) for number in range(100)]
MANY_REQUESTS = ClientOptions(sentences_per_request=7, requests_in_flight=3, timeout=20, retries=1)

Translate = Callable[..., list[list[Hypothesis]]]


class Counting(SilentReporter):
    """Adds up what tasks report."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done: list[int] = []

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Task]:
        self.total = total
        yield self

    def advance(self, amount: int = 1, **fields: object) -> None:
        self.done.append(amount)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def server(bundle: Bundle):
    with running(bundle) as server:
        yield server


def target_of(port: int | str) -> str:
    return f"127.0.0.1:{port}" if isinstance(port, int) else port


def sync_translate(port, sources, options=BUNDLE_DEFAULTS, client_options=MANY_REQUESTS, reporter=None):
    with Client(target_of(port), client_options) as client:
        return client.translate(sources, options, reporter=reporter)


def async_translate(port, sources, options=BUNDLE_DEFAULTS, client_options=MANY_REQUESTS, reporter=None):
    async def call():
        async with AsyncClient(target_of(port), client_options) as client:
            return await client.translate(sources, options, reporter=reporter)

    return asyncio.run(call())


@pytest.fixture(params=[sync_translate, async_translate], ids=["sync", "async"])
def translate(request: pytest.FixtureRequest) -> Translate:
    found: Translate = request.param
    return found


def test_a_long_list_keeps_its_order_and_answers_as_the_translator_does(
    translate: Translate, server: Server, bundle: Bundle
) -> None:
    options = TranslateOptions(num_hypotheses=2, extra_length=3)
    assert translate(server.port, SOURCES, options) == Translator(bundle, threads=1).translate(SOURCES, options)
    assert translate(server.port, []) == []


def test_a_call_that_meets_a_closing_port_is_tried_again(translate: Translate) -> None:
    """gRPC answers CANCELLED to it, before our server knows of it."""
    calls: list[int] = []

    def answer(request: pb.TranslateRequest, context: grpc.ServicerContext) -> pb.TranslateResponse:
        calls.append(1)
        if len(calls) == 1:
            context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
        return pb.TranslateResponse(translations=[pb.Translation(hypotheses=[pb.Hypothesis(text="done")])])

    with answering(SERVICE, "Translate", answer, pb.TranslateRequest, pb.TranslateResponse) as port:
        assert translate(port, ["a"])[0][0].text == "done"
    assert len(calls) == 2


def test_progress_counts_every_sentence_once(translate: Translate, server: Server) -> None:
    reporter = Counting()
    translate(server.port, SOURCES, reporter=reporter)
    assert reporter.total == sum(reporter.done) == len(SOURCES)
    assert len(reporter.done) > 1, "it is told while the work goes on"


def test_a_bad_source_is_named_by_its_place_in_the_whole_list(translate: Translate, server: Server) -> None:
    sources = list(SOURCES)
    sources[40] = "x" * 500
    with pytest.raises(RequestError) as caught:
        translate(server.port, sources)
    assert caught.value.field == "sources[40]"
    sources[40] = "\ud800"
    with pytest.raises(RequestError) as caught:
        translate(server.port, sources)
    assert caught.value.field == "sources[40]"


def test_an_option_that_does_not_fit_the_wire_is_named(translate: Translate, server: Server) -> None:
    for options in (TranslateOptions(beam_size=2**40), TranslateOptions(beam_size=0)):
        with pytest.raises(RequestError) as caught:
            translate(server.port, ["a"], options)
        assert caught.value.field.startswith("options")


def test_an_unknown_model_is_a_server_error(translate: Translate, server: Server) -> None:
    with pytest.raises(ServerError, match="valid choices: toy") as caught:
        translate(server.port, ["a"], TranslateOptions(), ClientOptions(model="other"))
    assert caught.value.status == "NOT_FOUND"


def test_nothing_listening_is_said_with_help(translate: Translate) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening: nobody else takes it
        port = free.getsockname()[1]
        with pytest.raises(ServerError) as caught:
            translate(port, ["a"], TranslateOptions(), ClientOptions(retries=1, timeout=10))
    assert caught.value.status == "UNAVAILABLE"
    assert "t2tdeploy serve" in str(caught.value.help)


def test_the_port_of_http_is_told_from_that_of_grpc(translate: Translate, bundle: Bundle) -> None:
    with running(bundle, http_port=0) as server, pytest.raises(ServerError, match="UNAVAILABLE") as caught:
        translate(server.http_port, ["a"], TranslateOptions(), ClientOptions(retries=0))
    assert "it may be the server's HTTP port" in str(caught.value.help)


def test_a_full_server_is_tried_again_until_it_answers(
    translate: Translate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = write_toy_bundle(tmp_path_factory.mktemp("bundle") / "slow", steps=2)
    options = ClientOptions(sentences_per_request=1, requests_in_flight=8, retries=100, timeout=30)
    with running(bundle, max_queue_sentences=1, max_sentences_per_request=1) as server:
        answers = translate(server.port, SOURCES[:12], TranslateOptions(), options)
        assert server.answers["RESOURCE_EXHAUSTED"] > 0
    assert [hypotheses[0].text for hypotheses in answers] == SOURCES[:12]


def test_retries_are_bounded(translate: Translate, bundle: Bundle) -> None:
    """The first refusal that lasts ends the call: it does not wait for the requests that would never end."""
    options = ClientOptions(sentences_per_request=1, requests_in_flight=8, retries=1, timeout=20)
    with (
        running(
            bundle, max_queue_sentences=1, max_sentences_per_request=1, max_batch_size=1, shutdown_grace_seconds=0
        ) as server,
        pytest.raises(ServerError) as caught,
    ):
        translate(server.port, SOURCES[:8], TranslateOptions(alpha=ENDLESS_ALPHA), options)
    assert caught.value.status == "RESOURCE_EXHAUSTED"


def test_cancelling_withdraws_what_is_under_way_and_sends_no_more(bundle: Bundle) -> None:
    async def cancel(server: Server) -> None:
        options = ClientOptions(sentences_per_request=1, requests_in_flight=5, timeout=60)
        async with AsyncClient(target_of(server.port), options) as client:
            task = asyncio.create_task(client.translate(SOURCES, TranslateOptions(alpha=ENDLESS_ALPHA)))
            while waiting_sentences(server) < 4:
                assert not task.done()
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await asyncio.wait_for(client.translate(["a"]), 20))[0][0].text == "a", "the worker is free again"

    with running(bundle, max_batch_size=1) as server:
        asyncio.run(cancel(server))
        assert server.answers == {"CANCELLED": 5, "OK": 1}


def test_the_models_of_the_server(server: Server, bundle: Bundle) -> None:
    with Client(f"127.0.0.1:{server.port}") as client:
        (model,) = client.models()
    assert (model.name, model.version, model.max_source_tokens) == ("toy", bundle.version, 200)
    assert (model.max_beam_size, model.max_extra_length) == (16, 256)
    assert model.defaults == TranslateOptions(beam_size=4, alpha=0.6, num_hypotheses=1, extra_length=50)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("sources", {"sources": "ab"}),
        ("target_prefixes", {"sources": ["a", "b"], "target_prefixes": "AB"}),
        ("options.suppress", {"sources": ["a"], "options": TranslateOptions(suppress="xy")}),  # type: ignore[arg-type]
    ],
)
def test_one_string_is_not_taken_for_a_list_of_letters(field: str, given: dict[str, Any]) -> None:
    words = f"^{field}: one string, where a list of strings is expected"

    async def ask() -> None:
        async with AsyncClient("localhost:1") as client:
            await client.translate(**given)

    with Client("localhost:1") as client:
        with pytest.raises(RequestError, match=words):
            client.translate(**given)
        with pytest.raises(RequestError, match=words):
            asyncio.run(ask())
        if "options" in given:
            with pytest.raises(RequestError, match=words):
                list(client.translate_document("a", given["options"]))


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_target_of_several_servers_is_asked_in_turn(bundle: Bundle, asynchronous: bool) -> None:
    """From when both are connected: until then, the first that is answers alone."""
    with running(bundle) as one, running(bundle) as two:

        def answered() -> list[int]:
            return [server.answers["OK"] for server in (one, two)]

        with open_client(f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}", asynchronous) as translate:
            while not all(answered()):
                translate(["a"])
            before = answered()
            translate(SOURCES)
        asked = [now - then for now, then in zip(answered(), before, strict=True)]
        assert sorted(asked) == [7, 8]  # requests of 7 sentences


@contextmanager
def open_client(target: str, asynchronous: bool) -> Iterator[Translate]:
    """`translate` of one client, and so of one channel."""
    if not asynchronous:
        with Client(target, MANY_REQUESTS) as client:
            yield client.translate
        return

    async def connect() -> AsyncClient:
        return AsyncClient(target, MANY_REQUESTS)

    with asyncio.Runner() as runner:
        async_client = runner.run(connect())
        yield lambda sources: runner.run(async_client.translate(sources))
        runner.run(async_client.close())


def test_names_are_resolved(server: Server, translate: Translate) -> None:
    assert translate(f"dns:///localhost:{server.port}", ["a"]) == translate(server.port, ["a"])


def test_a_server_that_leaves_is_asked_no_more(bundle: Bundle) -> None:
    """Its health tells, so no request fails although none is tried again."""
    options = ClientOptions(sentences_per_request=1, retries=0, timeout=20)
    with running(bundle) as stays, ServerProcess(bundle.directory, shutdown_grace_seconds=3) as leaves:
        port = leaves.event("serving")["port"]
        target = f"ipv4:127.0.0.1:{stays.port},127.0.0.1:{port}"
        with Client(target, options) as client, Client(target_of(port), options) as other:
            sent = 0
            while not 0 < stays.answers["OK"] < sent:  # until both are connected
                client.translate(["a"])
                sent += 1
            endless = threading.Thread(target=translate_endlessly, args=(other,))
            endless.start()  # keeps the server from closing its port at once
            time.sleep(0.2)
            leaves.process.send_signal(signal.SIGTERM)
            leaves.event("stopping")
            time.sleep(0.2)
            client.translate(SOURCES)
            assert leaves.process.poll() is None
            endless.join()


def translate_endlessly(client: Client) -> None:
    with pytest.raises(ServerError, match="UNAVAILABLE"):
        client.translate(["a"], TranslateOptions(alpha=ENDLESS_ALPHA))


@pytest.mark.parametrize("name", ["timeout", "retries", "sentences_per_request", "requests_in_flight"])
def test_options_that_could_never_ask_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name}: -1 is less than [01]"):
        ClientOptions(**{name: -1})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=f"{name}: nan is no number"):
        ClientOptions(**{name: math.nan})  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [1e9, 1e10, math.inf])
def test_a_request_may_take_as_long_as_it_takes(translate: Translate, server: Server, seconds: float) -> None:
    options = ClientOptions(timeout=seconds, retries=0)
    assert translate(server.port, ["a"], TranslateOptions(), options)[0][0].text == "a"
    with Client(target_of(server.port or 0), options) as client:
        assert [model.name for model in client.models()] == ["toy"]
        parts = client.translate_document("a", timeout=seconds)
        assert [part.hypotheses[0].text for part in parts] == ["a"]
