"""What came of the requests of one measurement: counts by status, histograms, rates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from t2tdeploy.load_testing.histogram import Histogram

NOT_SENT = "NOT_SENT"
"""In the place of a status: too many requests were waiting for their answers already, see `Plan.max_in_flight`."""
_MOST_WORDS = 20
"""Different sentences of errors that are kept."""


@dataclass(frozen=True)
class Outcome:
    """One request.

    Args:
        due, sent, ended: on the clock of the event loop; `due` is when it should have been sent.
        status: name of the gRPC status, or NOT_SENT.
        words: the server's, about an error.
        sentences, source_tokens, target_tokens: answered; tokens are those of the best hypotheses, EOS included.
        queue, compute: seconds, as the server tells.
    """

    due: float
    sent: float
    ended: float
    status: str
    words: str = ""
    sentences: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    queue: float = 0.0
    compute: float = 0.0


@dataclass
class Tally:
    """Adds outcomes up.

    Latencies and statuses are of the requests that were due in the window, whenever their answers came. Rates are of
    the answers that came in the window, whenever their requests were due: under overload, what comes after it would
    otherwise count as if it had come in it.

    Args:
        begin: of the window, on the clock of the event loop; earlier requests are warm-up.
        deadline: seconds from `due` in which an answer is any good.
    """

    begin: float
    deadline: float
    end: float = float("inf")
    statuses: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    good: int = 0
    late: int = 0
    warm_up: int = 0
    latency: Histogram = field(default_factory=Histogram)
    errors: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    rest: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    answered: Counter[str] = field(default_factory=Counter)

    def add(self, one: Outcome) -> None:
        """Counts a request that has ended."""
        latency = one.ended - one.due
        if one.status == "OK" and self.begin <= one.ended <= self.end:
            self.answered["requests"] += 1
            self.answered["good"] += latency <= self.deadline
            self.answered["sentences"] += one.sentences
            self.answered["source_tokens"] += one.source_tokens
            self.answered["target_tokens"] += one.target_tokens
        if one.due < self.begin:
            self.warm_up += 1
            return
        self.statuses[one.status] += 1
        if one.status != "OK":
            self._add_error(one, latency)
            return
        self.good += latency <= self.deadline
        self.late += latency > self.deadline
        self.lag.add(one.sent - one.due)
        self.latency.add(latency)
        self.queue.add(one.queue)
        self.compute.add(one.compute)
        self.rest.add(max(0.0, one.ended - one.sent - one.queue - one.compute))

    def _add_error(self, one: Outcome, latency: float) -> None:
        if one.status != NOT_SENT:
            self.errors.add(latency)
            self.lag.add(one.sent - one.due)
        sentence = f"{one.status}: {one.words}" if one.words else one.status
        if sentence in self.words or len(self.words) < _MOST_WORDS:
            self.words[sentence] += 1

    @property
    def total(self) -> int:
        """Requests that were due in the window."""
        return self.statuses.total()


@dataclass(frozen=True)
class Measured:
    """One measurement.

    Args:
        load: how requests came, in words.
        rate, concurrency: the same in numbers; the other one is None.
        seconds: of the window.
        cpu_seconds: that the load generator itself used in the window: on one machine, the server had so much less.
    """

    load: str
    rate: float | None
    concurrency: int | None
    seconds: float
    cpu_seconds: float
    tally: Tally

    def per_second(self, what: str) -> float:
        """Answers in the window, per second: "requests", "good" (within the deadline), "sentences", "target_tokens"."""
        return self.tally.answered[what] / self.seconds

    def record(self) -> dict[str, Any]:
        """For JSON."""
        tally = self.tally
        return {
            "load": self.load,
            "rate": self.rate,
            "concurrency": self.concurrency,
            "seconds": round(self.seconds, 3),
            "requests": tally.total,
            "statuses": dict(tally.statuses.most_common()),
            "good": tally.good,
            "late": tally.late,
            "warm_up_requests": tally.warm_up,
            "per_second": {
                "requests": round(self.per_second("requests"), 3),
                "goodput": round(self.per_second("good"), 3),
                "sentences": round(self.per_second("sentences"), 3),
                "source_tokens": round(self.per_second("source_tokens"), 1),
                "target_tokens": round(self.per_second("target_tokens"), 1),
            },
            "latency": tally.latency.summary(),
            "queue": tally.queue.summary(),
            "compute": tally.compute.summary(),
            "rest": tally.rest.summary(),
            "errors": tally.errors.summary(),
            "send_lag": tally.lag.summary(),
            "generator_cpus": round(self.cpu_seconds / self.seconds, 3),
            "words": dict(tally.words.most_common()),
            "histogram": tally.latency.record(),
        }
