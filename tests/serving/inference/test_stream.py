"""Streams of tritonclient, unmodified, against a real server."""

import queue

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.serving.inference.conftest import Served, tensor
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle


def streamed(client, requests: list[tuple[str, list, dict]]) -> list:
    """What comes back through a stream for requests of (id, inputs, parameters)."""
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    try:
        for name, inputs, parameters in requests:
            client.async_stream_infer("toy", inputs, request_id=name, parameters=parameters)
        return [answers.get(timeout=30) for _ in requests]
    finally:
        client.stop_stream()


def test_a_stream_keeps_ids_and_order_and_survives_errors(served: Served) -> None:
    """Long requests first: each answer waits for those before it."""
    numbers = list(range(30))
    requests = [
        (str(number), [tensor("sources", [] if number % 7 == 3 else [f"{number}" + "x" * (150 - 5 * number)])], {})
        for number in numbers
    ]
    with triton.InferenceServerClient(served.grpc) as client:
        answers = streamed(client, requests)
    for number, answer in zip(numbers, answers, strict=True):
        if number % 7 == 3:
            assert answer.message() == "INVALID_ARGUMENT: sources: there is none"
        else:
            assert answer.get_response().id == str(number)
            assert answer.as_numpy("texts")[0, 0].decode() == f"{number}" + "x" * (150 - 5 * number)


def test_a_stream_says_of_each_answer_that_it_is_the_last_if_asked(served: Served) -> None:
    """perf_analyzer asks, with every request."""
    asked = {"triton_enable_empty_final_response": True}
    with triton.InferenceServerClient(served.grpc) as client:
        told, silent = streamed(
            client, [("a", [tensor("sources", ["a"])], asked), ("b", [tensor("sources", ["b"])], {})]
        )
        alone = client.infer("toy", [tensor("sources", ["a"])], parameters=asked)
    assert told.get_response().parameters["triton_final_response"].bool_param
    assert not silent.get_response().parameters
    assert not alone.get_response().parameters


def test_an_endless_stream_waits_for_its_reader(served: Served) -> None:
    """More requests than are under way at once, and nothing is lost."""
    with triton.InferenceServerClient(served.grpc) as client:
        answers = streamed(client, [(str(number), [tensor("sources", ["a"])], {}) for number in range(150)])
    assert [answer.get_response().id for answer in answers] == [str(number) for number in range(150)]


def test_a_stopping_server_answers_what_a_stream_has_asked_and_ends_it(tmp_path, capfd) -> None:
    bundle = write_toy_bundle(tmp_path / "slow", steps=50)
    answers: queue.Queue = queue.Queue()
    with running(bundle) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        client.start_stream(lambda result, error: answers.put(error or result))
        for sources, extra_length in (["first"], 1), (["second"], 40):
            inputs = [tensor("sources", sources)]
            client.async_stream_infer("toy", inputs, parameters={"extra_length": extra_length})
        first = answers.get(timeout=20)  # so the second is under way, or about to be
    second, end = answers.get(timeout=20), answers.get(timeout=20)
    client.stop_stream()
    client.close()
    assert first.as_numpy("texts")[0, 0] == b"first"
    assert isinstance(second, InferenceServerException) or second.as_numpy("texts")[0, 0] == b"second"
    assert end.status() == "StatusCode.UNAVAILABLE"
    assert end.message() == "the server is stopping"
    assert "Traceback" not in capfd.readouterr().err
