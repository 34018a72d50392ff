from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.serving.observer import BatchReport, BatchStatistics

reports = st.builds(
    lambda lengths, waits, compute, outcome: BatchReport(
        sentences=len(lengths),
        tokens=sum(lengths),
        padded_tokens=len(lengths) * max(lengths),
        cost=len(lengths) * max(lengths),
        queue_seconds=tuple(waits[: len(lengths)]),
        compute_seconds=compute,
        outcome=outcome,
        finished=0.0,
    ),
    st.lists(st.integers(1, 50), min_size=1, max_size=5),
    st.lists(st.floats(0, 3), min_size=5, max_size=5),
    st.floats(0, 3),
    st.sampled_from(["ok", "failed", "split", "stopped"]),
)


@settings(max_examples=50)
@given(st.lists(reports, max_size=8))
def test_statistics_are_the_sums_of_the_reports(given_reports: list[BatchReport]) -> None:
    statistics = BatchStatistics()
    for report in given_reports:
        statistics.batch_done(report)
    good = [report for report in given_reports if report.outcome == "ok"]
    failed = [report for report in given_reports if report.outcome == "failed"]
    assert statistics.inference_count == sum(report.sentences for report in good)
    assert statistics.execution_count == len(good)
    assert abs(statistics.queue_ns / 1e9 - sum(sum(report.queue_seconds) for report in good)) < 1e-6
    assert abs(statistics.compute_ns / 1e9 - sum(report.sentences * report.compute_seconds for report in good)) < 1e-6
    assert statistics.failed_count == sum(report.sentences for report in failed)
    assert sum(size * of.count for size, of in statistics.sizes.items()) == statistics.inference_count
    assert sum(of.count for of in statistics.sizes.values()) == statistics.execution_count
    assert sum(size * of.compute_ns for size, of in statistics.sizes.items()) == statistics.compute_ns
    assert (statistics.last_inference_ms > 0) == bool(good)


@given(reports)
def test_the_padded_share_is_what_was_computed_for_nothing(report: BatchReport) -> None:
    assert 0 <= report.padded_share < 1
    assert (report.padded_share == 0) == (report.tokens == report.padded_tokens)


def test_sentences_that_did_not_run_are_counted_by_reason() -> None:
    statistics = BatchStatistics()
    statistics.refused(3, "queue_full")
    statistics.refused(2, "queue_full")
    statistics.dropped(1, "deadline")
    assert statistics.refused_sentences == {"queue_full": 5}
    assert statistics.dropped_sentences == {"deadline": 1}
