import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.serving.call_record import CallRecord, sane_id, valid_trace_parent

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(st.text(max_size=300))
def test_what_becomes_a_request_id_cannot_break_a_log(given: str) -> None:
    taken = sane_id(given)
    assert taken.isascii()
    assert taken.isprintable()
    assert not set(taken) & set("\"'{} ,\\")
    assert 1 <= len(taken) <= 128


@pytest.mark.parametrize("given", ["a", "4f2e-77", "Root=1-67891233-abcdef012345678912345678", "x" * 128])
def test_a_sane_id_is_kept(given: str) -> None:
    assert sane_id(given) == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\nb", "ä"])
def test_another_is_replaced_by_a_new_one(given: str | None) -> None:
    assert len({sane_id(given) for _ in range(10)} - {given}) == 10


@pytest.mark.parametrize(
    ("given", "valid"),
    [
        (TRACE, True),
        (TRACE.replace("00-", "01-", 1) + "-more", True),
        (TRACE.upper(), False),
        ("ff" + TRACE[2:], False),
        ("00-" + "0" * 32 + TRACE[35:], False),
        (TRACE[:36] + "0" * 16 + "-01", False),
        (TRACE + "\n", False),
        ("", False),
        (None, False),
    ],
)
def test_trace_parents(given: str | None, valid: bool) -> None:
    assert valid_trace_parent(given) == (given if valid else "")


def test_a_record_knows_the_trace_and_when_it_was_computed() -> None:
    record = CallRecord("id", "service", "Method", "grpc", trace_parent=TRACE)
    assert record.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    record.answered(0.1, 0.2, 5)
    record.end("OK")
    assert record.computed is not None
    assert 0 <= record.computed <= record.seconds
