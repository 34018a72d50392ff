"""The training batches of one process among several, with a position that means the same for any number of them."""

from __future__ import annotations

import numpy as np

from t2tdeploy.problems.batching import BatchSource, BatchStream, EpochPlan, Indices, Lengths, Position

_EMPTY = np.empty(0, np.int64)


class SharedStream:
    """Deals the batches of `BatchStream` out to processes: of every `world_size` that follow each other, one to each.

    The position counts the batches of all processes. So a run may go on with another number of them, in the middle of
    an epoch too: the batches that come next are dealt out anew, none is lost and none comes twice. When an epoch ends,
    the processes without a batch get one of no examples (arrays [0, 0]).

    Args:
        rank, world_size: of the process.
        Others: see `BatchStream`.

    Raises:
        InputError: no example has at most `max_length` tokens.
    """

    def __init__(
        self,
        dataset: BatchSource,
        *,
        batch_size: int,
        max_length: int,
        seed: int,
        rank: int,
        world_size: int,
        position: Position,
    ) -> None:
        self._dataset = dataset
        self._lengths = dataset.lengths
        self._rank, self._world_size = rank, world_size
        self._rows = BatchStream(
            _Rows(dataset.lengths), batch_size=batch_size, max_length=max_length, seed=seed, position=position
        )
        self._tokens_here = self._tokens = self._places = 0

    @property
    def position(self) -> Position:
        """Of the batch that comes next for the first process; batches of all processes count."""
        return self._rows.position

    @property
    def plan(self) -> EpochPlan:
        """Of the epoch that `position` is in, for all processes together."""
        return self._rows.plan

    def __iter__(self) -> SharedStream:
        return self

    def __next__(self) -> dict[str, Indices]:
        epoch = self.position.epoch
        dealt: list[Indices] = []
        while len(dealt) < self._world_size and self.position.epoch == epoch:
            dealt.append(next(self._rows)["rows"])
        mine = dealt[self._rank] if self._rank < len(dealt) else _EMPTY
        self._count(dealt, mine)
        return self._dataset.batch(mine)

    def rates_of_all(self, rates: dict[str, float]) -> dict[str, float]:
        """Turns what a `Meter` measured on the batches of this process since the last call into that of all processes.

        Their lengths are known everywhere, so nobody need be asked.
        """
        speed = rates["tokens_per_second"] * self._tokens / self._tokens_here
        of_all = {**rates, "tokens_per_second": speed, "padding_share": 1.0 - self._tokens / self._places}
        self.start_counting()
        return of_all

    def start_counting(self) -> None:
        """Forgets the batches counted so far."""
        self._tokens_here = self._tokens = self._places = 0

    def _count(self, dealt: list[Indices], mine: Indices) -> None:
        for lengths in self._lengths.values():
            self._tokens_here += int(lengths[mine].sum())
            for rows in dealt:
                self._tokens += int(lengths[rows].sum())
                self._places += len(rows) * int(lengths[rows].max())


class _Rows:
    """A dataset whose batches are the numbers of their examples."""

    def __init__(self, lengths: dict[str, Lengths]) -> None:
        self.lengths = lengths

    def batch(self, indices: Indices) -> dict[str, Indices]:
        return {"rows": indices}
