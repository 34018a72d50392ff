"""A translator that waits for the test, and an observer that remembers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from t2tdeploy.bundle import Bundle
from t2tdeploy.decoding import SearchKey
from t2tdeploy.errors import OperationalError
from t2tdeploy.runtime import Interrupt
from t2tdeploy.sentences import Sentence
from t2tdeploy.serving.observer import BatchReport, SilentObserver
from t2tdeploy.translator import Hypothesis, Translator


class Held(Translator):
    """Searches when it is let; remembers the batches, and how many ran at once over all that share `counter`."""

    def __init__(self, bundle: Bundle, counter: Counter | None = None) -> None:
        super().__init__(bundle, threads=1)
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.counter = counter or Counter()
        self.poison = ""

    def search(
        self, sentences: Sequence[Sentence], key: SearchKey, *, interrupt: Interrupt | None = None
    ) -> list[list[Hypothesis]]:
        self.batches.append([one.text for one in sentences])
        with self.counter:
            assert self.go.wait(20)
            if self.poison and self.poison in self.batches[-1]:
                raise OperationalError("this sentence breaks the graph")
            return super().search(sentences, key, interrupt=interrupt)


class Counter:
    """How many are inside at once, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


class Told(SilentObserver):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.reports: list[BatchReport] = []

    def admitted(self, sentences: int, tokens: int, priority: int) -> None:
        self.events.append(("admitted", sentences, tokens, priority))

    def refused(self, sentences: int, reason: str) -> None:
        self.events.append(("refused", sentences, reason))

    def dropped(self, sentences: int, reason: str) -> None:
        self.events.append(("dropped", sentences, reason))

    def batch_done(self, report: BatchReport) -> None:
        self.reports.append(report)
        raise RuntimeError("an observer's fault hurts nobody")
