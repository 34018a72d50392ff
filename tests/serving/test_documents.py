"""A streamed document is what its sentences are one by one, and what a translator on this machine makes of it."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import grpc
import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.decoding import TranslateOptions
from t2tdeploy.document_translation import translate_document
from t2tdeploy.documents import TranslatedPart, rejoin
from t2tdeploy.errors import RequestError, ServerError
from t2tdeploy.progress import SilentReporter
from t2tdeploy.serving.bundle_source import RepositoryFolder
from t2tdeploy.serving.client import AsyncClient, Client, ClientOptions
from t2tdeploy.serving.document_stream import DocumentCall, stream_document
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.repository import ModelRepository
from t2tdeploy.serving.scheduler import UnavailableError
from t2tdeploy.serving.server import Server
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from t2tdeploy.translator import Translator
from tests.serving.running import running, waiting_sentences
from tests.serving.toy_bundle import ENDLESS_ALPHA, write_toy_bundle

LINES = [
    "  A first sentence. Dr. Smith came! \t Why?",
    "",
    "これはペンです。本当？",
    "A sentence that is too long, which is why it is cut: " + "on and on, " * 40,
    "x" * 450,
    "",
    "    * the end\u2028",
]
DOCUMENT = "\r\n".join(LINES * 4) + "\n\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def server(bundle: Bundle):
    with running(bundle) as server:
        yield server


def client_of(server: Server, **options: object) -> Client:
    return Client(f"127.0.0.1:{server.port}", ClientOptions(**options))  # type: ignore[arg-type]


def stream_of(server: Server, request: pb.TranslateDocumentRequest) -> list[pb.TranslateDocumentResponse]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        return list(TranslationServiceStub(channel).TranslateStream(request, timeout=20))


async def gather(server: Server, document: str, options: TranslateOptions) -> list[TranslatedPart]:
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        return [part async for part in client.translate_document(document, options)]


@pytest.mark.parametrize("document", [DOCUMENT, "", " \n\n ", "One sentence"], ids=["mixed", "empty", "blank", "one"])
def test_streamed_equals_one_by_one_equals_local(server: Server, bundle: Bundle, document: str) -> None:
    options, translator = TranslateOptions(num_hypotheses=2, extra_length=3), Translator(bundle, threads=1)
    local = list(translate_document(translator, document, options))
    with client_of(server) as client:
        streamed = list(client.translate_document(document, options))
        singly = client.translate([one.part.text for one in streamed], options)
    assert streamed == local == asyncio.run(gather(server, document, options))
    assert [one.hypotheses for one in streamed] == singly
    assert "".join(rejoin(document, streamed)) == document, "the toy model translates a text into itself"


def test_the_messages_are_the_document_with_spans_and_sums(server: Server, bundle: Bundle) -> None:
    options = pb.DecodeOptions(return_tokens=False)
    *messages, last = stream_of(server, pb.TranslateDocumentRequest(document=DOCUMENT, options=options))
    sentences, content, end = [message.sentence for message in messages], DOCUMENT.encode(), 0
    for index, one in enumerate(sentences):
        assert (one.index, content[end : one.start_byte].decode()) == (index, one.before)
        assert content[one.start_byte : one.end_byte].decode() == one.translation.hypotheses[0].text
        assert one.translation.source_tokens <= bundle.manifest.decode.max_source_length
        assert not one.translation.truncated
        end = one.end_byte
    assert last.end.after == content[end:].decode()
    assert last.end.sentences == len(sentences) > 20
    assert last.end.source_tokens == sum(one.translation.source_tokens for one in sentences)
    assert last.end.target_tokens == sum(one.translation.hypotheses[0].tokens for one in sentences)
    assert (last.end.model, last.end.model_version) == ("toy", bundle.version)


@pytest.mark.parametrize("documents", [1, 6])
def test_documents_longer_than_the_queue_are_not_refused_and_do_not_fill_it(
    tmp_path_factory: pytest.TempPathFactory, documents: int
) -> None:
    """Beside it single requests find room, and go first."""
    bundle = write_toy_bundle(tmp_path_factory.mktemp("bundle") / "slow", steps=10)
    document = "\n".join(f"Sentence {number}." for number in range(300))
    limits = {"max_queue_sentences": 16, "max_sentences_per_request": 4, "max_batch_size": 4}
    with running(bundle, **limits) as server, client_of(server, retries=0) as client:
        most, done = 0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.0005):
                most = max(most, waiting_sentences(server))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            options = TranslateOptions(extra_length=1)
            answers = [client.translate_document(document, options) for _ in range(documents)]
            heads = [list(islice(parts, 20)) for parts in answers]
            for _ in range(20):
                assert client.translate(["a", "b"], options)[1][0].text == "b"
            for head, rest in zip(heads, answers, strict=True):
                assert len(head) + len(list(rest)) == 300
        finally:
            done.set()
            watcher.join()
        assert 0 < most <= 4 + 2


def test_a_sentence_longer_than_a_request_may_be_is_cut(server: Server, bundle: Bundle) -> None:
    with running(bundle, max_tokens_per_request=20) as limited, client_of(limited) as client:
        parts = list(client.translate_document(DOCUMENT, TranslateOptions(extra_length=1)))
    assert "".join(rejoin(DOCUMENT, parts)) == DOCUMENT
    with client_of(server) as client:
        assert len(parts) > len(list(client.translate_document(DOCUMENT, TranslateOptions(extra_length=1))))


def test_a_document_that_a_model_leaves_ends_with_unavailable(bundle: Bundle, tmp_path: Path) -> None:
    """Also if all that was under way had been answered when the model stopped."""
    shutil.copytree(bundle.directory, tmp_path / "models" / "toy" / "1")
    options = ServerOptions.create({"threads": 1, "max_batch_size": 1, "shutdown_grace_seconds": 0.0})

    async def read() -> None:
        repository = ModelRepository(RepositoryFolder(tmp_path / "models"), options, SilentReporter())
        frontend = Frontend(repository, options)
        await repository.start()
        document = "\n".join(f"Sentence {number}." for number in range(50))
        call = DocumentCall(document, TranslateOptions(extra_length=1))
        parts = stream_document(frontend, repository.find("toy"), call)
        async with asyncio.timeout(20):
            assert (await anext(parts)).sentence.text == "Sentence 0."
            model = repository.find("toy")
            while model.scheduler.state().waiting_sentences or model.scheduler.state().running_batches:
                await asyncio.sleep(0.001)
            await repository.unload("toy")
            while repository.entries()[0].state == "UNLOADING":
                await asyncio.sleep(0.001)
            with pytest.raises(UnavailableError, match="the server stopped"):
                async for _ in parts:
                    pass
            await repository.close()

    asyncio.run(read())


def test_a_full_queue_is_waited_for(bundle: Bundle) -> None:
    limits = {"max_queue_sentences": 2, "max_sentences_per_request": 2, "max_batch_size": 1}
    endless = pb.TranslateRequest(sources=["a", "b"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))
    with (
        running(bundle, **limits) as server,
        client_of(server) as client,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        calls = [TranslationServiceStub(channel).Translate.future(endless, timeout=60) for _ in range(2)]
        while waiting_sentences(server) < 1:
            time.sleep(0.005)
        with pytest.raises(ServerError) as caught:
            list(client.translate_document("Hello. World.", timeout=0.3))
        assert caught.value.status == "DEADLINE_EXCEEDED"
        parts = client.translate_document("Hello. World.")
        threading.Timer(0.2, lambda: [call.cancel() for call in calls]).start()
        assert [one.hypotheses[0].text for one in parts] == ["Hello.", "World."]


def test_a_client_that_goes_away_takes_the_rest_with_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = write_toy_bundle(tmp_path_factory.mktemp("bundle") / "slow", steps=20)
    document = "\n".join(f"Sentence {number}." for number in range(2000))
    with running(bundle, max_batch_size=4) as server, client_of(server) as client:
        with closing(client.translate_document(document, TranslateOptions(extra_length=1))) as parts:
            assert next(parts).hypotheses[0].text == "Sentence 0."
        deadline = time.monotonic() + 10
        while server.answers["CANCELLED"] == 0 or waiting_sentences(server):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        batches = server.batches
        assert client.translate(["x"], TranslateOptions(extra_length=1))[0][0].text == "x"
        assert batches < 100, "a few hundred sentences at most were ever taken"
        assert server.batches <= batches + 2


@pytest.mark.parametrize(
    ("request_bytes", "words"),
    [
        (b"\xff\xff", "request: the bytes are not a TranslateDocumentRequest"),
        (b"\x1a\x02\xc3\x28", "document: not valid UTF-8"),
        (pb.TranslateDocumentRequest(document="a", priority=3), "priority: 3 is not between -2 and 2"),
        (pb.TranslateDocumentRequest(document="a", options=pb.DecodeOptions(beam_size=0)), "options.beam_size: 0"),
    ],
    ids=["bytes", "utf-8", "priority", "option"],
)
def test_bad_input_is_an_invalid_argument(server: Server, request_bytes: object, words: str) -> None:
    content = request_bytes if isinstance(request_bytes, bytes) else request_bytes.SerializeToString()  # type: ignore[attr-defined]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_stream("/t2tdeploy.serving.v1.TranslationService/TranslateStream")(content, timeout=10)
        with pytest.raises(grpc.RpcError, match=words) as caught:
            next(call)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_client_errors_name_the_field(server: Server) -> None:
    with client_of(server) as client:
        for document, options, field in (
            ("lone \ud800", TranslateOptions(), "document"),
            ("a", TranslateOptions(beam_size=99), "options.beam_size"),
        ):
            with pytest.raises(RequestError) as caught:
                list(client.translate_document(document, options))
            assert caught.value.field == field


def test_a_request_of_no_such_priority_is_refused(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = pb.TranslateRequest(sources=["a"], priority=-3)
        with pytest.raises(grpc.RpcError, match="priority: -3 is not between -2 and 2") as caught:
            TranslationServiceStub(channel).Translate(request, timeout=10)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
