"""What Prometheus is told of a server.

Calls are counted from their records, batches by an observer of every scheduler; what only is at a moment (queues,
models) is read when Prometheus asks. Every server has a registry of its own, so that several in one process are kept
apart. docs/operations.md lists the metrics; their names are an interface, and change as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from t2tdeploy import __version__
from t2tdeploy.progress import Reporter, Task
from t2tdeploy.serving.call_record import CallRecord
from t2tdeploy.serving.observer import BatchReport, Dropped, Refusal, SchedulerState

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of latency histograms: from a cached answer of a small model to the usual deadline."""

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Bounds of sentences in a batch."""

_MODEL = ("model", "version")
_KEPT_VERSIONS = 2
"""Of a model, that have left: Prometheus still reads what they did last."""


@dataclass(frozen=True)
class ModelState:
    """A model that serves, at a moment.

    Args:
        version: its number.
        content: id of the bundle's content.
    """

    name: str
    version: str
    content: str
    variant: str
    scheduler: SchedulerState


class ServerMetrics:
    """The metrics of one server, in `registry`. Its method `call_ended` is a `RecordSink`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        self._calls = counter(
            "t2tdeploy_requests", "Calls answered, by method, gRPC status and model.", ("method", "status", "model")
        )
        self._rejects = counter("t2tdeploy_rejects", "Calls that were refused, by reason.", ("reason", "model"))
        self._total, self._queue, self._compute = (
            histogram(f"t2tdeploy_{name}_seconds", help, labels, buckets=SECONDS)
            for name, help, labels in (
                ("request", "From the first look at a call to its answer.", ("method", "model")),
                ("queue", "What the first sentence of a call waited for a worker.", ("model",)),
                ("compute", "From then until the last sentence of a call was done.", ("model",)),
            )
        )
        self._sentences, self._source_tokens, self._target_tokens = (
            counter(f"t2tdeploy_{name}", help, _MODEL)
            for name, help in (
                ("sentences", "Sentences of calls that were answered with OK."),
                ("source_tokens", "Tokens of their sources."),
                ("target_tokens", "Tokens of all hypotheses returned."),
            )
        )
        self._batches = counter("t2tdeploy_batches", "Batches run, by outcome.", (*_MODEL, "outcome"))
        self._batch_sentences = histogram("t2tdeploy_batch_sentences", "Sentences of a batch.", _MODEL, buckets=SIZES)
        self._batch_tokens = counter("t2tdeploy_batch_tokens", "Source tokens of batches, by kind.", (*_MODEL, "kind"))
        self._batch_seconds = histogram(
            "t2tdeploy_batch_seconds", "Time a batch was computed.", _MODEL, buckets=SECONDS
        )
        self._dropped = counter(
            "t2tdeploy_dropped_sentences",
            "Sentences that left the queue without being run, by reason.",
            (*_MODEL, "reason"),
        )
        self._loads = counter("t2tdeploy_model_loads", "Versions of models loaded.", ("model",))
        self._load_failures = counter("t2tdeploy_model_load_failures", "Versions that could not be loaded.", ("model",))
        self._of_versions: list[Counter | Histogram] = [
            *(self._sentences, self._source_tokens, self._target_tokens, self._batches, self._batch_sentences),
            *(self._batch_tokens, self._batch_seconds, self._dropped),
        ]
        self._left: dict[str, list[str]] = {}
        self._models: Callable[[], list[ModelState]] = list

    def call_ended(self, record: CallRecord) -> None:
        """Counts a call, or of a stream each request. Names that the server does not know never become labels: anybody
        could make any number."""
        if record.requests:
            return
        method = record.method if record.known else "unknown"
        self._calls.labels(method, record.status, record.model).inc()
        self._total.labels(method, record.model).observe(record.seconds)
        if record.status == "DEADLINE_EXCEEDED" or record.reason:
            self._rejects.labels(record.reason or "deadline", record.model).inc()
        if record.queue is not None and record.compute is not None:
            self._queue.labels(record.model).observe(record.queue)
            self._compute.labels(record.model).observe(record.compute)
            if record.status == "OK":
                self._sentences.labels(record.model, record.version).inc(record.sentences)
                self._source_tokens.labels(record.model, record.version).inc(record.source_tokens)
                self._target_tokens.labels(record.model, record.version).inc(record.target_tokens)

    def observer(self, model: str, version: str) -> _BatchMetrics:
        """What the scheduler of a model tells; a `BatchObserver`."""
        labels = (model, version)
        return _BatchMetrics(
            lambda outcome: self._batches.labels(*labels, outcome).inc(),
            self._batch_sentences.labels(*labels),
            self._batch_tokens.labels(*labels, "real"),
            self._batch_tokens.labels(*labels, "padding"),
            self._batch_seconds.labels(*labels),
            lambda reason, count: self._dropped.labels(*labels, reason).inc(count),
        )

    def watch(
        self,
        ready: Callable[[], bool],
        models: Callable[[], list[ModelState]],
        not_loaded: Callable[[], dict[str, int]],
    ) -> None:
        """Asks the server for its queues and models whenever Prometheus asks for metrics.

        Args:
            not_loaded: see `ModelRepository.not_loaded`.
        """
        self._models = models
        self.registry.register(_Moment(ready, models, not_loaded))

    def listening(self, reporter: Reporter) -> Reporter:
        """A reporter that passes everything on to `reporter`, counts the models loaded and broken, and forgets versions
        some time after they have left: models that are trained anew every hour would add series for ever."""
        return _CountingReporter(reporter, self._loads, self._load_failures, self._version_left)

    def _version_left(self, model: str, version: str) -> None:
        left = self._left[model] = [one for one in self._left.get(model, []) if one != version] + [version]
        serving = {state.version for state in self._models() if state.name == model}
        while len(left) > _KEPT_VERSIONS:
            if (oldest := left.pop(0)) not in serving:
                for metric in self._of_versions:
                    metric.remove_by_labels({"model": model, "version": oldest})


class _BatchMetrics:
    """See BatchObserver."""

    def __init__(
        self,
        ended: Callable[[str], None],
        sentences: Histogram,
        real: Counter,
        padding: Counter,
        seconds: Histogram,
        left: Callable[[str, int], None],
    ) -> None:
        self._ended, self._sentences, self._real, self._padding = ended, sentences, real, padding
        self._seconds, self._left = seconds, left

    def admitted(self, sentences: int, tokens: int, priority: int) -> None:
        """Counted with their call."""

    def refused(self, sentences: int, reason: Refusal) -> None:
        """Counted with their call."""

    def dropped(self, sentences: int, reason: Dropped) -> None:
        """See BatchObserver."""
        self._left(reason, sentences)

    def batch_done(self, report: BatchReport) -> None:
        """See BatchObserver."""
        self._ended(report.outcome)
        self._sentences.observe(report.sentences)
        self._real.inc(report.tokens)
        self._padding.inc(report.padded_tokens - report.tokens)
        self._seconds.observe(report.compute_seconds)


class _Moment(Collector):
    """What is now: gauges whose values are asked for, not kept."""

    def __init__(
        self,
        ready: Callable[[], bool],
        models: Callable[[], list[ModelState]],
        not_loaded: Callable[[], dict[str, int]],
    ) -> None:
        self._ready, self._models, self._not_loaded = ready, models, not_loaded

    def describe(self) -> list[Metric]:
        """Nothing: the registry would else ask before the server is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client.registry.Collector."""
        build = InfoMetricFamily("t2tdeploy_build", "Version of t2tdeploy.")
        build.add_metric([], {"version": __version__})
        yield build
        yield GaugeMetricFamily("t2tdeploy_ready", "1 if requests should come here.", value=float(self._ready()))
        info = InfoMetricFamily("t2tdeploy_model", "Models that serve.", labels=_MODEL)
        gauges = {
            name: GaugeMetricFamily(f"t2tdeploy_{name}", help, labels=_MODEL)
            for name, help in (
                ("queue_sentences", "Sentences that wait for a worker."),
                ("queue_tokens", "Their tokens."),
                ("running_batches", "Batches being computed."),
                ("running_sentences", "Their sentences."),
                ("workers", "Batches that can be computed at once."),
            )
        }
        for model in self._models():
            labels, state = [model.name, model.version], model.scheduler
            info.add_metric(labels, {"content": model.content, "variant": model.variant})
            gauges["queue_sentences"].add_metric(labels, state.waiting_sentences)
            gauges["queue_tokens"].add_metric(labels, state.waiting_tokens)
            gauges["running_batches"].add_metric(labels, state.running_batches)
            gauges["running_sentences"].add_metric(labels, state.running_sentences)
            gauges["workers"].add_metric(labels, state.workers)
        yield info
        yield from gauges.values()
        not_loaded = GaugeMetricFamily(
            "t2tdeploy_model_versions_not_loaded", "Versions that should serve and cannot be loaded.", labels=["model"]
        )
        for name, count in self._not_loaded().items():
            not_loaded.add_metric([name], count)
        yield not_loaded


class _CountingReporter:
    """See Reporter."""

    def __init__(self, reporter: Reporter, loads: Counter, failures: Counter, left: Callable[[str, str], None]) -> None:
        self._reporter, self._loads, self._failures, self._left = reporter, loads, failures, left

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Task]:
        with self._reporter.task(description, total, unit) as task:
            yield task

    def message(self, text: str) -> None:
        self._reporter.message(text)

    def event(self, name: str, **data: Any) -> None:
        if name == "loaded":
            self._loads.labels(data["model"]).inc()
            self._failures.labels(data["model"])  # at 0: to Prometheus, a series that begins at 1 has not increased
        if name == "broken":
            self._failures.labels(data["model"]).inc()
        if name == "unloaded":
            self._left(data["model"], str(data["number"]))
        self._reporter.event(name, **data)
