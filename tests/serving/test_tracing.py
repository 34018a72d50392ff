import pytest

from t2tdeploy.errors import OperationalError
from t2tdeploy.serving.call_record import CallRecord

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed: it is in the extra otel")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from t2tdeploy.serving.tracing import Spans, otlp_exporter

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"


def spans_of(record: CallRecord) -> dict[str, ReadableSpan]:
    exporter = InMemorySpanExporter()
    spans = Spans(exporter, batch=False)
    spans(record)
    spans.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def ended(status: str = "OK", **fields: object) -> CallRecord:
    record = CallRecord("id-1", "t2tdeploy.Toy", "Translate", "grpc", **fields)  # type: ignore[arg-type]
    if status == "OK":
        record.answered(0.25, 0.5, 7)
    record.end(status)
    record.computed, record.seconds = 0.8, 1.0
    return record


def test_a_call_is_a_span_with_its_queue_and_computation_inside() -> None:
    record = ended(model="ende", sentences=2)
    spans = spans_of(record)
    call, queue, compute = (spans[name] for name in ("t2tdeploy.Toy/Translate", "queue", "compute"))
    assert call.kind is SpanKind.SERVER
    assert call.attributes is not None
    assert call.attributes["t2tdeploy.model"] == "ende"
    assert call.attributes["t2tdeploy.request_id"] == "id-1"
    assert call.attributes["t2tdeploy.sentences"] == 2
    assert call.parent is None
    for child in (queue, compute):
        assert child.parent is not None
        assert child.parent.span_id == call.context.span_id
    start = call.start_time or 0
    times = [(span.start_time - start, span.end_time - start) for span in (call, queue, compute)]  # type: ignore[operator]
    seconds = [(round(begin / 1e9, 3), round(end / 1e9, 3)) for begin, end in times]
    assert seconds == [(0.0, 1.0), (0.05, 0.3), (0.3, 0.8)]


def test_a_span_belongs_to_the_trace_of_the_caller() -> None:
    call = spans_of(ended(trace_parent=TRACE + "01"))["t2tdeploy.Toy/Translate"]
    assert call.context.trace_id == 0x4BF92F3577B34DA6A3CE929D0E0E4736
    assert call.parent is not None
    assert call.parent.span_id == 0x00F067AA0BA902B7


def test_a_caller_that_does_not_record_is_followed() -> None:
    assert not spans_of(ended(trace_parent=TRACE + "00"))


@pytest.mark.parametrize(
    ("status", "error"),
    [("OK", False), ("INVALID_ARGUMENT", False), ("RESOURCE_EXHAUSTED", False), ("INTERNAL", True), ("UNKNOWN", True)],
)
def test_only_faults_of_the_server_are_errors(status: str, error: bool) -> None:
    call = spans_of(ended(status))["t2tdeploy.Toy/Translate"]
    assert (call.status.status_code is StatusCode.ERROR) == error


def test_a_refused_call_has_no_children_and_a_probe_no_span() -> None:
    record = CallRecord("id", "t2tdeploy.Toy", "Translate", "grpc")
    record.end("UNAVAILABLE")
    assert list(spans_of(record)) == ["t2tdeploy.Toy/Translate"]
    probe = CallRecord("id", "grpc.health.v1.Health", "Check", "grpc")
    probe.end("OK")
    assert not spans_of(probe)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(OperationalError, match="spans need the Python package") as caught:
        otlp_exporter("http://localhost:4317")
    assert "pip install 't2tdeploy[otel]'" in (caught.value.help or "")
