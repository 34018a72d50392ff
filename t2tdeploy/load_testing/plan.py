"""What load to put on a server: how requests come, how long, and what they ask."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from t2tdeploy.decoding import BUNDLE_DEFAULTS, TranslateOptions
from t2tdeploy.errors import InputError
from t2tdeploy.serving.messages import write_request

Arrivals = Literal["poisson", "constant"]


@dataclass(frozen=True)
class OpenLoop:
    """Requests come when they come, however the server does: what users who do not know of each other do.

    Args:
        rate: requests per second.
        arrivals: poisson: pauses are exponentially distributed, as those of many independent users; constant: equal.
    """

    rate: float
    arrivals: Arrivals = "poisson"

    def __str__(self) -> str:
        return f"{self.rate:g}/s"

    def times(self, seed: int) -> Iterator[float]:
        """When requests are due, in seconds from the start; without end."""
        draw = random.Random(seed)
        time = 0.0
        while True:
            yield time
            time += draw.expovariate(self.rate) if self.arrivals == "poisson" else 1 / self.rate


@dataclass(frozen=True)
class ClosedLoop:
    """So many callers, each of which sends its next request when it has the answer to the last: what a batch job does.

    A slow server is asked less often by them, so their latencies say little about users (Schroeder, Wierman and
    Harchol-Balter 2006: Open Versus Closed).
    """

    concurrency: int

    def __str__(self) -> str:
        return f"{self.concurrency} callers"


Shape = OpenLoop | ClosedLoop


@dataclass(frozen=True)
class Plan:
    """What all measurements of a load test share.

    Args:
        duration: seconds that requests are sent, after the warm-up; None: until there were `requests`.
        requests: that are measured; None: as many as there are in `duration`.
        warm_up: seconds at the beginning whose requests are sent but not measured.
        deadline: seconds, from when a request was due, in which an answer is any good; what is left is the deadline of
            the call. The server drops what has missed its own.
        connections: TCP connections, used in turn.
        max_in_flight: requests that wait for their answers at most; one more is not sent, and counted as NOT_SENT.
        seed: of the arrivals.
    """

    duration: float | None = 10.0
    requests: int | None = None
    warm_up: float = 2.0
    deadline: float = 10.0
    connections: int = 1
    max_in_flight: int = 20_000
    seed: int = 0


def request_messages(
    sources: Sequence[str],
    sentences_per_request: int,
    *,
    model: str = "",
    model_version: str = "",
    options: TranslateOptions = BUNDLE_DEFAULTS,
) -> list[bytes]:
    """Requests for all of `sources`, in order, as bytes: so no time of the measurement goes into making them.

    The last sources are followed by the first where they do not fill a request.

    Raises:
        InputError: there is no source.
        RequestError: an option is of the wrong type, or a source is no Unicode text.
    """
    if not sources:
        raise InputError("there is no sentence to send", help="name a file with one a line: --input")
    found = []
    for first in range(0, len(sources), sentences_per_request):
        part = [sources[(first + place) % len(sources)] for place in range(sentences_per_request)]
        found.append(write_request(model, part, options, model_version=model_version).SerializeToString())
    return found
