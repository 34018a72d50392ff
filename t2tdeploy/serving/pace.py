"""How fast a model's batches are, learned from them, and what that means for a deadline.

When more comes in than can be computed, a queue grows until everything in it is about as old as its deadline: each
batch is then full of sentences that expire while it runs, and almost nothing is answered in time. So a request is
refused when what waits before it would take too long, and what the next batch can hardly finish in time is dropped
before the batch is formed. Refusing early instead of queueing is what Maurer, "Fail at Scale" (ACM Queue 2015),
recommends; here the bound is the request's own deadline.

Nothing here reads a clock.
"""

from __future__ import annotations

import math

from t2tdeploy.serving.batcher import IN_TIME

_SLOWER, _FASTER = 0.2, 0.5  # weight of the newest batch in running means: what was too high has refused for nothing
_SLOW_BATCH = 1.5
"""A batch that takes so many times the mean of late is still to be expected: half of all are slower than the mean, and
under overload an answer waits for the event loop, too."""
_RARE_LENGTH = 1.4
"""A batch takes sentences of about one length from the whole queue, so that who has a rare length waits longer than its
place in line says; so many times as long goes by before one that was accepted is out of time."""
_CALM_BATCHES = 2
_MIN_RETRY, _MAX_RETRY = 0.05, 10.0  # seconds
_LONGEST_PAUSE, _PAUSE_SHARE = 0.003, 0.05  # seconds; of a batch


class Pace:
    """The speed of the batches of one model, and whether they have company: others that run or wait.

    Args:
        workers: batches that run at once.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._batch: float | None = None
        self._token: float | None = None
        self._any_token: float | None = None  # of batches of any size
        self._company = -math.inf  # when a batch last had some

    @property
    def batch(self) -> float:
        """Seconds that the batches of late took; 0: there was none."""
        return self._batch or 0.0

    def lead(self, tokens: int) -> float:
        """Seconds before its deadline that a sentence should be taken, with so many tokens waiting: then a batch may
        take as long as those of late, or as these tokens would at their speed, whichever is longer (rule 5 of the
        batcher), and it is not yet dropped for want of time. Without end as long as nothing is known.

        A token of a lone sentence costs many times as much as one of a large batch. So where small batches went before
        a burst, it is taken sooner than it had to be; later would be too late."""
        if self._batch is None or self._any_token is None:
            return math.inf
        return max(self._batch, tokens * self._any_token) / IN_TIME

    @property
    def token(self) -> float:
        """Seconds that a token of large batches took of late; 0: that is not known."""
        return self._token or 0.0

    def learn(self, seconds: float, tokens: int, *, others_waited: bool, complete: bool, widened: bool = False) -> None:
        """A batch took so long.

        Args:
            tokens: of its sentences, without padding.
            others_waited: it was as large as its key, its limits and its leader's time allowed. Of other batches only
                those are learned from in which a token was cheaper than known: those of a lone sentence cost many
                times as much.
            complete: False: it was stopped, and would have taken longer. Of its tokens no more is learned than that
                those of large batches are dearer, if others waited: it may be stopped because it is small, a lone
                request of options that nobody else has.
            widened: it had the CPUs of all workers; of batches that run at once each would have taken longer.
        """
        self._batch = _learned(self._batch, seconds) if complete else max(self.batch, seconds)
        token = seconds / tokens * (self._workers if widened else 1)
        if complete:
            self._any_token = _learned(self._any_token, token)
        if others_waited or (complete and self._token is not None and token < self._token):
            self._token = _learned(self._token, token if complete else max(self.token, token))

    def met_company(self, now: float) -> None:
        """A batch starts while others run or wait."""
        self._company = now

    def is_calm(self, now: float) -> bool:
        """Whether no batch has had company for as long as two take."""
        return now - self._company > _CALM_BATCHES * self.batch

    def pause(self, now: float) -> float:
        """Seconds that a free worker may wait for those who were just answered. While batches have company, these are
        about to ask again, and the first of them would else run before the others, in a batch of its own."""
        return 0.0 if self.is_calm(now) else min(_LONGEST_PAUSE, _PAUSE_SHARE * self.batch)

    def wait(self, tokens: int) -> float:
        """Seconds until so many waiting tokens are computed; 0 as long as no batch has left others waiting."""
        return tokens * self.token / self._workers

    def next_batch(self, tokens: int) -> float:
        """Seconds that a batch out of so many waiting tokens may take; 0 as long as that is not known.

        Twice what its tokens cost in large batches, and never more than a slow one of the batches of late: a short
        queue makes a short batch, however long others were.
        """
        return min(_SLOW_BATCH * self.batch, 2 * tokens * self.token)

    def lateness(self, tokens: int, waiting: int, running: float | None, remaining: float) -> float:
        """Seconds by which a request would probably come too late; 0 or less: it has time.

        Args:
            tokens: that wait before it, and its own.
            waiting: all that wait, its own included: others of its length may share its batch.
            running: seconds that the oldest batch under way has run; None: a worker is free.
            remaining: seconds until its deadline.
        """
        under_way = 0.0 if running is None or not self._token else max(0.0, self.batch - running)
        return under_way + _RARE_LENGTH * self.wait(tokens) + self.next_batch(waiting) - remaining


def retry_hint(seconds: float) -> float:
    """When it may be worth trying again, of an estimate."""
    return min(max(seconds, _MIN_RETRY), _MAX_RETRY)


def _learned(known: float | None, newest: float) -> float:
    if known is None:
        return newest
    return known + (_FASTER if newest < known else _SLOWER) * (newest - known)
