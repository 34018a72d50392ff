"""The training batches of one process among several, with a position that means the same for any number of them."""

from __future__ import annotations

import numpy as np

from t2tdeploy.problems.batching import (
    Augment,
    Batch,
    BatchSource,
    BatchStream,
    EpochPlan,
    Indices,
    Lengths,
    Position,
    augmented,
)

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
        augment: Augment | None = None,
    ) -> None:
        self._dataset = dataset
        self._lengths = dataset.lengths
        self._rank, self._world_size = rank, world_size
        self._seed, self._augment = seed, augment
        self._rows = BatchStream(
            _Rows(dataset), batch_size=batch_size, max_length=max_length, seed=seed, position=position
        )
        self.start_counting()

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

    def __next__(self) -> Batch:
        epoch, first = self.position.epoch, self.position.batch
        dealt: list[Indices] = []
        while len(dealt) < self._world_size and self.position.epoch == epoch:
            dealt.append(next(self._rows)["rows"])
        mine = dealt[self._rank] if self._rank < len(dealt) else _EMPTY
        self._count(dealt, mine)
        batch = self._dataset.batch(mine)
        if self._augment is None or not len(mine):
            return batch
        return augmented(batch, self._augment, seed=self._seed, epoch=epoch, number=first + self._rank)

    def rates_of_all(self, rates: dict[str, float]) -> dict[str, float]:
        """Turns what a `Meter` measured on the batches of this process since the last call into that of all processes.

        Their lengths are known everywhere, so nobody need be asked.
        """
        of_all = dict(rates)
        if "examples_per_second" in rates:
            of_all["examples_per_second"] *= self._examples / self._examples_here
        if self._lengths:
            of_all["tokens_per_second"] *= self._tokens / self._tokens_here
            of_all["padding_share"] = 1.0 - self._tokens / self._places
        self.start_counting()
        return of_all

    def start_counting(self) -> None:
        """Forgets the batches counted so far."""
        self._examples_here = self._examples = self._tokens_here = self._tokens = self._places = 0

    def _count(self, dealt: list[Indices], mine: Indices) -> None:
        self._examples_here += len(mine)
        self._examples += sum(map(len, dealt))
        for lengths in self._lengths.values():
            self._tokens_here += int(lengths[mine].sum())
            for rows in dealt:
                self._tokens += int(lengths[rows].sum())
                self._places += len(rows) * int(lengths[rows].max())


class _Rows:
    """A dataset whose batches are the numbers of their examples."""

    def __init__(self, dataset: BatchSource) -> None:
        self.lengths: dict[str, Lengths] = dataset.lengths
        self._examples = len(dataset)

    def __len__(self) -> int:
        return self._examples

    def batch(self, indices: Indices) -> dict[str, Indices]:
        return {"rows": indices}
