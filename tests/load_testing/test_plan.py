from __future__ import annotations

import itertools

import pytest

from t2tdeploy.decoding import TranslateOptions
from t2tdeploy.errors import InputError
from t2tdeploy.load_testing.plan import OpenLoop, request_messages
from t2tdeploy.serving.v1 import translation_pb2 as pb


def test_constant_arrivals_have_equal_pauses() -> None:
    assert list(itertools.islice(OpenLoop(4, "constant").times(0), 4)) == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_the_rate_and_the_spread_of_independent_users() -> None:
    times = list(itertools.islice(OpenLoop(50, "poisson").times(3), 20_000))
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(pauses) / len(pauses)
    variance = sum((pause - mean) ** 2 for pause in pauses) / len(pauses)
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert variance**0.5 == pytest.approx(mean, rel=0.05)
    assert times[:9] == list(itertools.islice(OpenLoop(50).times(3), 9))
    assert times[1] != list(itertools.islice(OpenLoop(50).times(4), 2))[1]


def test_requests_hold_all_sentences_in_order_and_begin_again_to_be_full() -> None:
    options = TranslateOptions(beam_size=2)
    messages = request_messages(["a", "b", "c", "d", "e"], 2, model="m", options=options)
    requests = [pb.TranslateRequest.FromString(message) for message in messages]
    assert [list(request.sources) for request in requests] == [["a", "b"], ["c", "d"], ["e", "a"]]
    assert {request.model for request in requests} == {"m"}
    assert {request.options.beam_size for request in requests} == {2}


def test_no_sentence_is_an_error() -> None:
    with pytest.raises(InputError, match="no sentence"):
        request_messages([], 1)
