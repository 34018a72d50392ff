import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import CorruptFileError, OperationalError
from t2tdeploy.serving.bundle_source import RepositoryFolder
from t2tdeploy.serving.messages import SERVICE, read_response
from t2tdeploy.serving.server import Server
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from t2tdeploy.translator import TranslateOptions, Translator
from tests.serving.running import ServerProcess, running, starting
from tests.serving.toy_bundle import ENDLESS_ALPHA, small_tokenizer, write_toy_bundle

Health = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A request takes some 0.05 s per 10 of extra_length."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "slow", steps=50)


@pytest.fixture(scope="module")
def server(bundle: Bundle):
    with running(bundle) as server:
        yield server


def channel_to(port: int | None) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{port}")


def health_of(channel: grpc.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status


def slow_request(extra_length: int) -> pb.TranslateRequest:
    return pb.TranslateRequest(sources=["slow"], options=pb.DecodeOptions(extra_length=extra_length))


FAST = slow_request(1)
ENDLESS = pb.TranslateRequest(sources=["endless"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))


@pytest.mark.parametrize(
    "options",
    [
        TranslateOptions(),
        TranslateOptions(beam_size=5, alpha=0.25, num_hypotheses=3, extra_length=9),
        TranslateOptions(truncate=True),
    ],
)
def test_the_server_answers_as_the_translator_does(server: Server, bundle: Bundle, options: TranslateOptions) -> None:
    sources = ["Ein Haus.", "", "x" * (300 if options.truncate else 150), " ", "日本語", "a\nb"]
    given = {name: value for name, value in vars(options).items() if value is not None}
    with channel_to(server.port) as channel:
        request = pb.TranslateRequest(model="toy", sources=sources, options=pb.DecodeOptions(**given))
        response = TranslationServiceStub(channel).Translate(request, timeout=10)
    translator = Translator(bundle, threads=1)
    assert read_response(response) == translator.translate(sources, options)
    sentences = translator.encode(sources, truncate=options.truncate)
    assert [one.source_tokens for one in response.translations] == [len(one.ids) for one in sentences]
    assert [one.truncated for one in response.translations] == [one.truncated for one in sentences]
    assert (response.model, response.model_version) == ("toy", bundle.version)
    assert response.timing.queue.ToNanoseconds() >= 0
    assert response.timing.compute.ToNanoseconds() > 0


@pytest.mark.parametrize("options", [{}, {"workers": 2, "threads": 2}, {"max_queue_delay_ms": 20}], ids=str)
def test_concurrent_requests_share_batches_and_keep_their_order(slow_bundle: Bundle, options: dict[str, int]) -> None:
    def sources(request: int) -> list[str]:
        return [f"{request}-{number}-" + "x" * ((request * 7 + number * 13) % 60) for number in range(1 + request % 3)]

    with running(slow_bundle, **options) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)

        def ask(request: int) -> list[str]:
            message = pb.TranslateRequest(sources=sources(request), options=pb.DecodeOptions(extra_length=1))
            return [one.hypotheses[0].text for one in stub.Translate(message, timeout=30).translations]

        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, range(64)))
        assert answers == [sources(request) for request in range(64)]
        assert server.batches < 64


BAD_REQUESTS = [
    (b"\xff\xff\xff", "request: the bytes are not a TranslateRequest"),
    (b"\x12\x02ok\x12\x02\xc3\x28", r"sources\[1\]: not valid UTF-8"),
    (b"\x0a\x01\xff\x12\x02ok", "model: not valid UTF-8"),
    (pb.TranslateRequest(), "sources: there is none"),
    (pb.TranslateRequest(sources=["a"] * 17), "sources: 17 in one request, the server takes 16"),
    (pb.TranslateRequest(sources=["a", "b", "c", "x" * 200]), r"sources\[3\]: 201 tokens, the model takes 200"),
    (pb.TranslateRequest(sources=["x" * 190] * 6), "sources: 1146 tokens in one request, the server takes 1000"),
    (pb.TranslateRequest(sources=["x" * 9000]), "request: 9003 bytes, the server takes 8192"),
    (pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(beam_size=0)), "options.beam_size: 0 is not between"),
    (pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(beam_size=99)), "options.beam_size: 99"),
    (pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(alpha=float("nan"))), "options.alpha: nan"),
    (pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(num_hypotheses=9)), "options.num_hypotheses: 9"),
    (pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(extra_length=-1)), "options.extra_length: -1"),
    (b"\x12\x01a\x1a\x02\x78\x01", "options: field 15 is not known"),
]


def test_bad_input_is_an_invalid_argument_that_names_the_field(bundle: Bundle) -> None:
    limits = {"max_sentences_per_request": 16, "max_queue_tokens": 1000, "max_request_bytes": 8192}
    with running(bundle, **limits) as server, channel_to(server.port) as channel:
        translate = channel.unary_unary(f"/{SERVICE}/Translate")
        for request, words in BAD_REQUESTS:
            content = request if isinstance(request, bytes) else request.SerializeToString()
            with pytest.raises(grpc.RpcError, match=words) as caught:
                translate(content, timeout=10)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert server.batches == 0
        response = pb.TranslateResponse.FromString(translate(b"\x12\x01a", timeout=10))
        assert response.translations[0].hypotheses[0].text == "a"


def test_a_beam_that_the_vocabulary_cannot_fill_is_an_invalid_argument(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "small", tokenizer=small_tokenizer())
    beam_size = bundle.tokenizer("targets").vocab_size // 2
    with running(bundle) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        (model,) = stub.ListModels(pb.ListModelsRequest(), timeout=10).models
        assert model.limits.max_beam_size == beam_size
        fits = pb.TranslateRequest(sources=["ab"], options=pb.DecodeOptions(beam_size=beam_size))
        assert stub.Translate(fits, timeout=10).translations
        fits.options.beam_size += 1
        with pytest.raises(grpc.RpcError, match=rf"options.beam_size: {beam_size + 1} .* vocabulary") as caught:
            stub.Translate(fits, timeout=10)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_bundle_whose_own_beam_does_not_fit_does_not_start(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "small", tokenizer=small_tokenizer(), beam_size=16)
    with pytest.raises(CorruptFileError, match=r"beam_size = 16 .* vocabulary"), running(bundle):
        pass


def test_the_operator_bounds_what_a_request_may_ask_for(bundle: Bundle) -> None:
    with running(bundle, max_beam_size=5, max_extra_length=60) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        (model,) = stub.ListModels(pb.ListModelsRequest(), timeout=10).models
        assert (model.limits.max_beam_size, model.limits.max_extra_length) == (5, 60)
        for option, largest in (("beam_size", 5), ("extra_length", 60)):
            stub.Translate(
                pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(**{option: largest})), timeout=10
            )
            beyond = pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(**{option: largest + 1}))
            with pytest.raises(grpc.RpcError, match=f"options.{option}: {largest + 1} is not between 1 and {largest}"):
                stub.Translate(beyond, timeout=10)


def test_what_the_bundle_takes_by_default_is_never_refused(bundle: Bundle) -> None:
    with running(bundle, max_beam_size=1, max_extra_length=1) as server, channel_to(server.port) as channel:
        assert TranslationServiceStub(channel).Translate(pb.TranslateRequest(sources=["a"]), timeout=10).translations


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        (pb.DecodeOptions(), 1),
        (pb.DecodeOptions(beam_size=16, extra_length=256), 11),
    ],
    ids=["ordinary", "the most of everything"],
)
def test_the_more_a_request_asks_to_remember_the_fewer_sentences_share_a_batch(
    bundle: Bundle, options: pb.DecodeOptions, batches: int
) -> None:
    with running(bundle, max_batch_size=64) as server, channel_to(server.port) as channel:
        request = pb.TranslateRequest(sources=["nineteen characters"] * 64, options=options)
        TranslationServiceStub(channel).Translate(request, timeout=30)
        assert server.batches == batches


def test_a_long_extra_length_does_not_slow_down_others(bundle: Bundle) -> None:
    """Sentences share a batch only if all their options are equal."""
    with running(bundle, max_queue_delay_ms=300) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        calls = [stub.Translate.future(slow_request(extra_length), timeout=30) for extra_length in (5, 200, 5, 200)]
        assert [call.result().translations[0].hypotheses[0].text for call in calls] == ["slow"] * 4
        assert server.batches >= 2


def test_an_unknown_model_is_not_found(server: Server) -> None:
    with channel_to(server.port) as channel, pytest.raises(grpc.RpcError, match="'toi'; valid choices: toy") as caught:
        TranslationServiceStub(channel).Translate(pb.TranslateRequest(model="toi", sources=["a"]), timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_full_queue_is_resource_exhausted_with_a_hint(bundle: Bundle) -> None:
    limits = {"max_queue_sentences": 2, "max_sentences_per_request": 2, "max_batch_size": 1}
    with running(bundle, **limits) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        calls = [stub.Translate.future(ENDLESS, timeout=60) for _ in range(8)]  # at most one runs and two wait
        done = threading.Semaphore(0)
        for call in calls:
            call.add_done_callback(lambda _: done.release())
        for _ in range(5):
            assert done.acquire(timeout=20)
        refused = [call for call in calls if call.done()]
        for call in refused:
            assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(call.trailing_metadata())["retry-after-ms"]) > 0
        # What does not fit the queue is refused before it is tokenized, so that its faults are not even found.
        with pytest.raises(grpc.RpcError) as caught:
            stub.Translate(pb.TranslateRequest(sources=["a", "x" * 500]), timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()


@pytest.mark.parametrize("behind", [False, True], ids=["running", "in the queue"])
def test_a_passed_deadline_ends_the_work(bundle: Bundle, behind: bool) -> None:
    with running(bundle) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        first = stub.Translate.future(ENDLESS, timeout=60) if behind else None
        with pytest.raises(grpc.RpcError) as caught:
            stub.Translate(ENDLESS, timeout=0.4)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        if first:
            first.cancel()
        # The only worker is free again, minutes before the endless search would have ended.
        assert stub.Translate(FAST, timeout=20).translations[0].hypotheses[0].text == "slow"


def test_a_cancelled_request_frees_the_worker_and_the_queue(bundle: Bundle) -> None:
    limits = {"max_queue_sentences": 4, "max_sentences_per_request": 4}
    with running(bundle, **limits) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        calls = [stub.Translate.future(ENDLESS, timeout=60) for _ in range(5)]
        for _ in range(3):
            health_of(channel)  # the requests went before these on the same connection
        for call in calls:
            call.cancel()
        assert stub.Translate(FAST, timeout=20).translations[0].hypotheses[0].text == "slow"


def test_our_own_fault_is_internal_with_an_id_that_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = write_toy_bundle(tmp_path / "faulty", known_ids=200)
    with running(bundle) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Translate(pb.TranslateRequest(sources=["€"]), timeout=10)
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        words = caught.value.details() or ""
        assert "Traceback" not in words
        assert "onnx" not in words
        (record,) = [record for record in caplog.records if record.name == "t2tdeploy.serving"]
        assert record.getMessage() in words
        assert record.exc_info
        assert stub.Translate(pb.TranslateRequest(sources=["a"]), timeout=10).translations


def test_the_models_are_listed_with_what_a_client_needs(server: Server, bundle: Bundle) -> None:
    with channel_to(server.port) as channel:
        (model,) = TranslationServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=10).models
    assert (model.name, model.version, model.task) == ("toy", bundle.version, "translate")
    defaults = {field.name: value for field, value in model.defaults.ListFields()}
    assert defaults == {"beam_size": 4, "alpha": 0.6, "num_hypotheses": 1, "extra_length": 50}
    assert model.limits.max_source_tokens == 200
    assert (model.limits.max_beam_size, model.limits.max_extra_length) == (16, 256)
    assert model.limits.max_sentences == 256


def test_health_and_reflection_answer_the_standard_clients(server: Server) -> None:
    with channel_to(server.port) as channel:
        assert health_of(channel) == health_of(channel, SERVICE) == Health.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health_of(channel, "no.such.Service")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        file = database.FindFileContainingSymbol(SERVICE)
        assert [method.name for method in file.service[0].method] == [
            "Translate",
            "TranslateStream",
            "ListModels",
        ]


def test_a_starting_server_is_unavailable(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", steps=2000)  # a warm-up of 16 000 products
    with starting(bundle) as (server, ready), channel_to(server.port) as channel:
        with pytest.raises(grpc.RpcError, match="the server is starting") as caught:
            TranslationServiceStub(channel).Translate(FAST, timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert health_of(channel) == Health.NOT_SERVING
        ready()
        assert health_of(channel) == Health.SERVING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_accepted_requests_finish_and_exits_0(slow_bundle: Bundle, number: signal.Signals) -> None:
    with ServerProcess(slow_bundle.directory) as server:
        serving = server.event("serving")
        with channel_to(serving["port"]) as channel, channel_to(serving["port"]) as watching:
            watch = health_pb2_grpc.HealthStub(watching).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == Health.SERVING
            stub = TranslationServiceStub(channel)
            calls = [stub.Translate.future(slow_request(100 + number), timeout=60) for number in range(6)]
            time.sleep(0.5)  # so that some are accepted; which ones, the answers say
            server.process.send_signal(number)
            assert next(watch).status == Health.NOT_SERVING
            with pytest.raises(grpc.RpcError) as caught:
                stub.Translate(FAST, timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            codes = Counter(call.code().name for call in calls)
            assert codes["OK"] >= 1
            accepted = [call.result() for call in calls if call.code() == grpc.StatusCode.OK]
            assert {answer.translations[0].hypotheses[0].text for answer in accepted} == {"slow"}
        assert server.process.wait(timeout=20) == 0
        stopped = server.event("stopped")
        assert stopped["unfinished"] == 0
        # Every request was either finished or refused: none was accepted and lost.
        assert stopped["answers"] == dict(codes + Counter(UNAVAILABLE=1))


def test_when_the_grace_is_over_requests_get_unavailable(bundle: Bundle) -> None:
    with running(bundle, shutdown_grace_seconds=0.1) as server:
        channel = channel_to(server.port)
        call = TranslationServiceStub(channel).Translate.future(ENDLESS, timeout=60)
        for _ in range(3):
            health_of(channel)
    assert call.code() == grpc.StatusCode.UNAVAILABLE
    channel.close()


def test_a_taken_port_is_said_with_what_to_do(bundle: Bundle) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OperationalError, match=f"port {port}") as caught, running(bundle, port=port):
            pass
    assert "--port" in str(caught.value.help)


def test_two_servers_do_not_share_a_port(server: Server, bundle: Bundle) -> None:
    with pytest.raises(OperationalError, match=f"port {server.port}"), running(bundle, port=server.port):
        pass


def test_a_model_that_cannot_be_looked_at_has_no_version_in_health(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "seen").symlink_to(bundle.directory)
    (tmp_path / "shut").symlink_to("shut")  # whoever looks goes round in circles, root too
    with running(RepositoryFolder(tmp_path)) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name, expected in (("seen:1", Health.SERVING), ("shut", Health.NOT_SERVING)):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == expected
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="shut:0"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
