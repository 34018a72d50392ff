"""tritonclient over gRPC, unmodified, against a real server."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving import messages
from t2tdeploy.serving.batcher import MAX_PRIORITY, MIN_PRIORITY
from t2tdeploy.serving.bundle_source import RepositoryFolder
from t2tdeploy.serving.inference import messages as inference_messages
from t2tdeploy.serving.inference.core import priority_of
from t2tdeploy.serving.inference.service import SERVICE
from t2tdeploy.serving.inference.translation import TranslationInterface
from t2tdeploy.tokenizer import ByteTokenizer, encode_with_eos
from t2tdeploy.translator import Hypothesis
from tests.serving.inference.conftest import Served, tensor
from tests.serving.running import running, starting
from tests.serving.toy_bundle import ENDLESS_ALPHA, write_toy_bundle

SOURCES = ["Ein Haus.", "", "x" * 150, " ", "日本語", "a\nb"]
OPTIONS = [{}, {"beam_size": 5, "alpha": "0.25", "num_hypotheses": 3, "extra_length": 9}, {"truncate": True}]
USUAL = ["texts", "scores", "lengths", "finished", "truncated"]


def hypotheses_of(result, row: int) -> list[Hypothesis]:
    texts, scores, lengths = (result.as_numpy(name) for name in USUAL[:3])
    finished = bool(result.as_numpy("finished").ravel()[row])
    return [
        Hypothesis(texts[row, i].decode(), float(scores[row, i]), int(lengths[row, i]), finished)
        for i in range(texts.shape[1])
        if lengths[row, i]
    ]


def require_local_answer(served: Served, result, sources: list[str], options: dict) -> None:
    options = {name: float(value) if isinstance(value, str) else value for name, value in options.items()}
    expected = served.translator.translate(sources, **options)
    assert [hypotheses_of(result, row) for row in range(len(sources))] == expected
    cut = served.translator.encode(sources, truncate=options.get("truncate", False))
    assert result.as_numpy("truncated").ravel().tolist() == [one.truncated for one in cut]
    texts, lengths = result.as_numpy("texts"), result.as_numpy("lengths")
    assert texts.shape == (len(sources), options.get("num_hypotheses", 1))
    assert np.isneginf(result.as_numpy("scores")[lengths == 0]).all()


def status_of(error: pytest.ExceptionInfo[InferenceServerException]) -> str:
    return error.value.status().removeprefix("StatusCode.")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("column", [False, True])
def test_the_server_answers_as_the_translator_does(served: Served, client, options: dict, column: bool) -> None:
    sources = [*SOURCES, "x" * 300] if "truncate" in options else SOURCES
    values = [[one] for one in sources] if column else sources
    result = client.infer("toy", [tensor("sources", values)], request_id="7", parameters=options)
    require_local_answer(served, result, sources, options)
    assert result.as_numpy("finished").shape == np.array(values, object).shape
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("7", "toy", "1")
    assert [one.name for one in response.outputs] == USUAL


def test_asyncio_answers_the_same(served: Served) -> None:
    async def ask() -> list:
        async with triton_aio.InferenceServerClient(served.grpc) as client:
            assert await client.is_server_ready()
            calls = [client.infer("toy", [tensor("sources", SOURCES)], parameters=options) for options in OPTIONS]
            return await asyncio.gather(*calls)

    for options, result in zip(OPTIONS, asyncio.run(ask()), strict=True):
        require_local_answer(served, result, SOURCES, options)


def test_ids_answer_as_their_text_does(served: Served, client) -> None:
    ids = [encode_with_eos(ByteTokenizer(), source) for source in ("Ein Haus.", "日本語", "a")]
    longest = max(map(len, ids))
    padded = [one + [0] * (longest - len(one)) for one in ids]
    result = client.infer("toy", [tensor("source_ids", padded, np.int64)])
    require_local_answer(served, result, ["Ein Haus.", "日本語", "a"], {})
    outputs = [triton.InferRequestedOutput(name) for name in ("target_ids", "lengths")]
    target_ids = client.infer("toy", [tensor("source_ids", padded, np.int64)], outputs=outputs).as_numpy("target_ids")
    assert target_ids[:, 0].tolist() == padded  # this bundle translates a sentence into itself


def test_typed_contents_answer_as_raw_ones_do(served: Served) -> None:
    request = service_pb2.ModelInferRequest(model_name="toy")
    request.inputs.add(name="sources", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"a", b"b"])
    with grpc.insecure_channel(served.grpc) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        require_local_answer(served, triton.InferResult(stub.ModelInfer(request, timeout=10)), ["a", "b"], {})


def test_only_the_outputs_asked_for_come_in_their_order(client) -> None:
    names = ["target_ids", "texts", "finished"]
    result = client.infer(
        "toy", [tensor("sources", ["a"])], outputs=[triton.InferRequestedOutput(name) for name in names]
    )
    assert [one.name for one in result.get_response().outputs] == names


def test_metadata_and_configuration_tell_of_the_answers(client) -> None:
    metadata, config = client.get_model_metadata("toy"), client.get_model_config("toy").config
    assert (metadata.name, metadata.versions) == (config.name, ["1"]) == ("toy", ["1"])
    assert [one.name for one in metadata.inputs] == ["sources"]
    response = client.infer("toy", [tensor("sources", [["a"], ["b"]])]).get_response()
    for told, configured, found in zip(metadata.outputs, config.output, response.outputs, strict=True):
        assert (told.name, told.datatype) == (found.name, found.datatype)
        assert len(told.shape) == len(found.shape)
        assert (configured.name, list(configured.dims)) == (told.name, list(told.shape)[1:])
    assert config.max_batch_size == 16
    assert not config.model_transaction_policy.decoupled
    assert config.parameters["outputs_on_request"].string_value.startswith("target_ids INT64 [-1, -1, -1]")


def test_statistics_count_sentences_and_batches(client) -> None:
    def statistics():
        (one,) = client.get_inference_statistics("toy").model_stats
        return one

    before = statistics()
    for _ in range(3):
        client.infer("toy", [tensor("sources", ["a", "b"])])
    after = statistics()
    assert after.inference_count - before.inference_count == 6
    assert 3 <= after.execution_count - before.execution_count <= 6
    assert after.inference_stats.success.count == after.inference_count
    assert sum(one.batch_size * one.compute_infer.count for one in after.batch_stats) == after.inference_count
    assert after.last_inference >= before.last_inference


A = tensor("sources", ["a"])
BAD_CALLS = {
    "no input": ([], {}, "inputs: sources or source_ids are needed, neither"),
    "two kinds of sources": (
        [A, tensor("source_ids", [[5, 1]], np.int64)],
        {},
        "inputs: sources or source_ids are needed, both",
    ),
    "an unknown input": ([tensor("source", ["a"])], {}, "inputs: unknown name 'source'; valid choices: sources"),
    "another datatype": ([tensor("sources", [1], np.int64)], {}, "sources: datatype 'INT64', but it is BYTES"),
    "another shape": ([tensor("sources", [["a", "b"]])], {}, r"sources: shape \[1, 2\], but it is \[-1, 1\]"),
    "too many rows": ([tensor("sources", ["a"] * 17)], {}, "sources: 17 rows in one request, the server takes 16"),
    "no row": ([tensor("sources", [])], {}, "sources: there is none"),
    "text that is not UTF-8": ([tensor("sources", ["a", b"\xc3("])], {}, r"sources\[1\]: not valid UTF-8 at byte 0"),
    "too long": ([tensor("sources", ["a", "x" * 200])], {}, r"sources\[1\]: 201 tokens, the model takes 200"),
    "too many bytes": ([tensor("sources", ["x" * 200_000])], {}, "request: 2000.. bytes, the server takes 200000"),
    "prefixes of another number": (
        [A, tensor("target_prefixes", ["a", "b"])],
        {},
        "target_prefixes: 2 for 1 sources",
    ),
    "ids without an end": ([tensor("source_ids", [[5, 6]], np.int64)], {}, r"source_ids\[0\]: the ids do not end"),
    "ids of padding alone": ([tensor("source_ids", [[5, 1], [0, 0]], np.int64)], {}, r"source_ids\[1\]: the ids do"),
    "ids beyond the vocabulary": ([tensor("source_ids", [[999, 1]], np.int64)], {}, r"source_ids\[0\]: 999 at place 0"),
    "an unknown parameter": ([A], {"beamsize": 2}, r"parameters: unknown name 'beamsize'.*beam_size"),
    "a parameter out of range": ([A], {"beam_size": 99}, "parameters.beam_size: 99 is not between"),
    "a parameter that is no number": ([A], {"alpha": "much"}, "parameters.alpha: 'much' is not a number"),
    "truth as a number": ([A], {"beam_size": True}, "parameters.beam_size: True is not a whole number"),
    "a text as truth": ([A], {"truncate": "perhaps"}, "parameters.truncate: 'perhaps' is neither true nor false"),
    "pieces that are no list": ([A], {"suppress": "Hund"}, "parameters.suppress: 'Hund' is no list"),
    "what the graph cannot do": ([A], {"return_tokens": True}, "parameters.return_tokens: the graph"),
}


@pytest.mark.parametrize("fault", BAD_CALLS)
def test_a_bad_request_is_refused_by_name(client, fault: str) -> None:
    inputs, parameters, words = BAD_CALLS[fault]
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.infer("toy", inputs, parameters=parameters)
    assert status_of(caught) == "INVALID_ARGUMENT"


def test_an_unknown_output_is_refused(client) -> None:
    with pytest.raises(InferenceServerException, match=r"outputs: unknown name .text.*did you mean .texts.") as caught:
        client.infer("toy", [tensor("sources", ["a"])], outputs=[triton.InferRequestedOutput("text")])
    assert status_of(caught) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("model", "version"), [("tay", ""), ("toy", "2"), ("x" * 100_000, "")])
def test_an_unknown_model_is_not_found(client, model: str, version: str) -> None:
    calls = [
        lambda: client.infer(model, [tensor("sources", ["a"])], model_version=version),
        lambda: client.get_model_metadata(model, version),
        lambda: client.get_model_config(model, version),
        lambda: client.get_inference_statistics(model, version),
    ]
    for call in calls:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert status_of(caught) == "NOT_FOUND"
    assert not client.is_model_ready(model, version)


def test_a_timeout_in_microseconds_ends_a_request(client) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("toy", [tensor("sources", ["a"])], parameters={"alpha": str(ENDLESS_ALPHA)}, timeout=200_000)
    assert status_of(caught) == "DEADLINE_EXCEEDED"
    with pytest.raises(InferenceServerException, match=r"parameters\.timeout: -1 is not") as caught:
        client.infer("toy", [tensor("sources", ["a"])], timeout=-1)
    assert status_of(caught) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("level", range(6))
def test_a_priority_is_taken(client, level: int) -> None:
    client.infer("toy", [A], priority=level)


def test_level_1_goes_first_and_0_is_the_default() -> None:
    assert [priority_of({"priority": level}) for level in range(1, 6)] == list(
        range(MAX_PRIORITY, MIN_PRIORITY - 1, -1)
    )
    assert priority_of({"priority": 0}) == priority_of({}) == priority_of({"priority": 3}) == 0


def test_a_priority_that_is_none_is_refused(client) -> None:
    with pytest.raises(InferenceServerException, match=r"parameters\.priority: 6 is not between 0 and 5") as caught:
        client.infer("toy", [A], priority=6)
    assert status_of(caught) == "INVALID_ARGUMENT"
    batching = client.get_model_config("toy").config.dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (5, 3)


def test_the_server_tells_who_it_is(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert client.is_model_ready("toy", "1")
    metadata = client.get_server_metadata()
    assert metadata.name == "t2tdeploy"
    assert {"binary_tensor_data", "statistics", "model_repository"} <= set(metadata.extensions)


def test_health_and_reflection_know_the_service(served: Served) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, messages.SERVICE} <= set(database.get_services())
        pool = DescriptorPool(database)
        assert len(pool.FindServiceByName(SERVICE).methods) == 12
        assert pool.FindMessageTypeByName("inference.ModelInferRequest").fields_by_name["inputs"].number == 5
        assert pool.FindServiceByName(messages.SERVICE).methods_by_name["Translate"]


def test_names_of_tensors_differ() -> None:
    for specs in (TranslationInterface.inputs, TranslationInterface.outputs):
        assert len({one.name for one in specs}) == len(specs)
        assert all(one.shape[0] == -1 for one in specs)


def test_models_come_and_go_by_request(bundle: Bundle) -> None:
    with running(bundle) as server, triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        client.unload_model("toy")
        assert not client.is_model_ready("toy")
        assert not client.is_server_ready()
        (entry,) = client.get_model_repository_index().models
        assert (entry.name, entry.state) != ("toy", "READY")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("toy", [tensor("sources", ["a"])])
        assert status_of(caught) == "UNAVAILABLE"
        client.load_model("toy")
        assert client.is_model_ready("toy")
        assert [(one.name, one.version, one.state) for one in client.get_model_repository_index().models] == [
            ("toy", "1", "READY")
        ]
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException) as caught:
                call("tay")
            assert status_of(caught) == "NOT_FOUND"
        with pytest.raises(
            InferenceServerException, match=r"parameters\.config: models are loaded as they are"
        ) as caught:
            client.load_model("toy", config="{}")
        assert status_of(caught) == "INVALID_ARGUMENT"


def test_a_repository_that_cannot_be_looked_at_is_unavailable(tmp_path) -> None:
    root = tmp_path / "models"
    write_toy_bundle(root / "toy" / "1")
    with (
        running(RepositoryFolder(root)) as server,
        triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client,
    ):
        root.rename(tmp_path / "away")
        with pytest.raises(InferenceServerException, match=r"toy cannot be loaded: .*models cannot be read") as caught:
            client.load_model("toy")
        assert status_of(caught) == "UNAVAILABLE"
        assert client.is_model_ready("toy")


def test_before_it_serves_the_server_is_live_and_not_ready(tmp_path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", steps=1000)  # a warm-up that takes a while
    with starting(bundle) as (server, ready), triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("toy")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("toy", [tensor("sources", ["a"])])
        assert status_of(caught) == "UNAVAILABLE"
        ready()
        assert client.is_server_ready()


def test_a_full_queue_refuses_with_a_hint(tmp_path) -> None:
    bundle = write_toy_bundle(tmp_path / "slow", steps=50)
    limits = {"max_queue_sentences": 2, "max_sentences_per_request": 1, "max_batch_size": 1}

    with running(bundle, **limits) as server, triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:

        def ask(number: int) -> str:
            try:
                client.infer("toy", [tensor("sources", [f"{number}"])], parameters={"extra_length": 20})
            except InferenceServerException as error:
                return error.status()
            return "OK"

        with ThreadPoolExecutor(12) as pool:
            statuses = set(pool.map(ask, range(12)))
    assert statuses == {"OK", "StatusCode.RESOURCE_EXHAUSTED"}


@pytest.mark.parametrize("field", ["inputs", "outputs", "parameters"])
def test_more_tensors_than_a_model_has_are_refused_unread(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Millions of empty ones fit into a request of the usual size."""
    monkeypatch.setattr("t2tdeploy.serving.inference.service.read_infer", lambda _: pytest.fail("read"))
    request = service_pb2.ModelInferRequest(model_name="toy")
    most = {"inputs": 3, "outputs": 8, "parameters": len(TranslationInterface.parameters)}[field]
    if field == "parameters":
        for number in range(1000):
            request.parameters[str(number)].int64_param = 1
    else:
        for _ in range(1000):
            getattr(request, field).add()
    with running(bundle) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"{field}: 1000 in one request, the model has {most}"


@pytest.mark.parametrize("size", [1, 200_000])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata"])
def test_large_requests_are_parsed_by_a_thread(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, method: str, size: int
) -> None:
    """Else every other request waits."""
    on_loop: list[bool] = []
    parsed = inference_messages._parsed

    def seen(*arguments):
        on_loop.append(asyncio._get_running_loop() is not None)
        return parsed(*arguments)

    monkeypatch.setattr(inference_messages, "_parsed", seen)
    content = service_pb2.ModelInferRequest(model_name="m" * size).SerializeToString()  # field 1 is a name in all
    with running(bundle) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.stream_stream(f"/{SERVICE}/{method}")(iter([content]), timeout=20)
        with contextlib.suppress(grpc.RpcError):
            list(call)
    assert on_loop == [size == 1]


_TABLE = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_is_sent_is_answered_by_the_table(served: Served, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(["ModelInfer", "ModelMetadata", "ModelConfig", "RepositoryIndex", "ServerLive"]))
    good = service_pb2.ModelInferRequest(model_name="toy")
    good.inputs.add(name="sources", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
    content = bytearray(good.SerializeToString() if data.draw(st.booleans()) else data.draw(st.binary(max_size=50)))
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with grpc.insecure_channel(served.grpc) as channel:
        try:
            channel.unary_unary(f"/{SERVICE}/{method}")(bytes(content), timeout=20)
            status = "OK"
        except grpc.RpcError as error:
            status = error.code().name
    assert status in _TABLE
