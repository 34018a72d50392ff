"""OpenTelemetry spans of calls, made of a call's record when it has ended: nothing of it is on the way of an answer.

A span for every call, a child for its time in the queue and one for its computation. The packages are those of the
extra `otel`, imported only when spans are asked for. Names of attributes are those of the semantic conventions for RPC,
https://opentelemetry.io/docs/specs/semconv/rpc/grpc, and our own under `t2tdeploy.`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2tdeploy import __version__
from t2tdeploy.errors import OperationalError
from t2tdeploy.serving.auth import OPEN_METHODS
from t2tdeploy.serving.call_record import TRACE_PARENT, CallRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_EXPORT_SECONDS = 5
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""Statuses that make a server's span an error, by the semantic conventions."""


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Sends spans to an OpenTelemetry collector by OTLP over gRPC.

    Args:
        endpoint: e.g. "http://collector:4317"; https for TLS.

    Raises:
        OperationalError: the packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        help = "pip install 't2tdeploy[otel]', or leave otlp_endpoint out"
        raise OperationalError(f"spans need the Python package '{error.name}'", help=help) from None
    return OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_SECONDS)


class Spans:
    """Makes spans of call records; a `RecordSink`.

    Sampling and resource attributes are set by the variables of OpenTelemetry, e.g. OTEL_TRACES_SAMPLER and
    OTEL_RESOURCE_ATTRIBUTES; by default a call is recorded unless its caller's trace says otherwise.
    """

    def __init__(self, exporter: SpanExporter, *, batch: bool = True) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": "t2tdeploy", "service.version": __version__})
        self._provider: TracerProvider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter) if batch else SimpleSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("t2tdeploy", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, record: CallRecord) -> None:
        if record.method in OPEN_METHODS:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        parent = self._propagator.extract({TRACE_PARENT: record.trace_parent} if record.trace_parent else {})
        span = self._tracer.start_span(
            f"{record.service}/{record.method}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes=_attributes(record),
            start_time=_nanoseconds(record.started),
        )
        if record.computed is not None and record.queue is not None and record.compute is not None:
            around = set_span_in_context(span)
            computed = record.started + record.computed
            taken = computed - record.compute
            for name, start, end in (("queue", taken - record.queue, taken), ("compute", taken, computed)):
                child = self._tracer.start_span(name, context=around, start_time=_nanoseconds(start))
                child.end(_nanoseconds(end))
        if record.status in _FAULTS:
            span.set_status(Status(StatusCode.ERROR, record.status))
        span.end(_nanoseconds(record.started + record.seconds))

    def close(self) -> None:
        """Sends what is not sent yet; takes seconds if nobody receives it."""
        self._provider.shutdown()


def _attributes(record: CallRecord) -> dict[str, Any]:
    attributes = {
        "rpc.system": "grpc" if record.protocol == "grpc" else "",
        "rpc.service": record.service,
        "rpc.method": record.method,
        "rpc.response.status_code": record.status,
        "client.address": record.peer,
        "t2tdeploy.request_id": record.request_id,
        "t2tdeploy.client": record.client,
        "t2tdeploy.model": record.model,
        "t2tdeploy.version": record.version,
        "t2tdeploy.sentences": record.sentences,
        "t2tdeploy.source_tokens": record.source_tokens,
        "t2tdeploy.target_tokens": record.target_tokens,
        "t2tdeploy.error_id": record.error_id,
    }
    return {name: value for name, value in attributes.items() if value != ""}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
