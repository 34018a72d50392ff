"""Every request is counted once, wherever it ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.load_testing.tally import NOT_SENT, Measured, Outcome, Tally

BEGIN, END, DEADLINE = 2.0, 10.0, 1.5


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    due = draw(st.floats(0, END))
    lag, seconds = draw(st.floats(0, 1)), draw(st.floats(0, 5))
    status = draw(st.sampled_from(["OK", "OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", NOT_SENT]))
    return Outcome(
        due, due + lag, due + lag + seconds, status, words=draw(st.sampled_from(["", "a", "b"])), sentences=3
    )


def tally_of(found: list[Outcome]) -> Tally:
    tally = Tally(BEGIN, DEADLINE)
    tally.end = END
    for one in found:
        tally.add(one)
    return tally


@given(st.lists(outcomes(), max_size=60))
def test_counts_add_up(found: list[Outcome]) -> None:
    tally = tally_of(found)
    assert tally.warm_up + tally.total == len(found)
    assert tally.good + tally.late == tally.statuses["OK"] == tally.latency.count
    sent = tally.total - tally.statuses[NOT_SENT]
    assert tally.latency.count + tally.errors.count == sent == tally.lag.count
    assert tally.answered["sentences"] == 3 * tally.answered["requests"]
    assert tally.answered["good"] <= tally.answered["requests"]


@given(st.lists(outcomes(), max_size=60))
def test_rates_are_of_the_answers_that_came_in_the_window(found: list[Outcome]) -> None:
    measured = Measured("", 1.0, None, END - BEGIN, 0.0, tally_of(found))
    came = [one for one in found if one.status == "OK" and BEGIN <= one.ended <= END]
    assert measured.per_second("requests") * (END - BEGIN) == len(came)
    assert measured.tally.answered["good"] == sum(one.ended - one.due <= DEADLINE for one in came)


def test_a_latency_counts_from_when_the_request_was_due() -> None:
    tally = tally_of([Outcome(due=3, sent=5, ended=6, status="OK", queue=0.25, compute=0.5)])
    assert (tally.latency.max, tally.lag.max, tally.rest.max) == (3, 2, 0.25)
    assert (tally.good, tally.late) == (0, 1)


def test_the_words_of_errors_are_kept_but_not_without_end() -> None:
    tally = tally_of([Outcome(3, 3, 3, "INTERNAL", f"id {number}") for number in range(1000)])
    assert tally.statuses["INTERNAL"] == 1000
    assert len(tally.words) <= 20
