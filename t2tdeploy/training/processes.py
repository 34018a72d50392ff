"""What the processes of one training run say to each other. The base class is one process alone, which says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class Processes:
    """One process that trains alone; `distributed.ProcessGroup` is one of several.

    All but the attributes are collective: every process calls them in the same order.

    Attributes:
        rank: of this process, from 0; the first one writes files and reports.
        world_size: processes of the run, on all machines.
        local_rank, local_world_size: the same among those of this machine.
    """

    rank = 0
    world_size = 1
    local_rank = 0
    local_world_size = 1

    @property
    def first(self) -> bool:
        """True in the process that writes files and reports."""
        return self.rank == 0

    def sums(self, values: Sequence[int]) -> list[int]:
        """Each number summed over the processes."""
        return list(values)

    def largest(self, value: int) -> int:
        """The largest of all processes' numbers."""
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, in the first process; nothing in the others."""
        return [value]

    def broadcast(self, value: T) -> T:
        """The first process's value."""
        return value

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first process's tensors, on the CPU in the others, whose own are not looked at."""
        return dict(tensors)

    def add_up(self, buffers: Sequence[Tensor]) -> None:
        """Replaces each buffer (flat, of the same size everywhere) by its sum over the processes, the same bits in all.

        Counted by `communication`.
        """

    def communication(self) -> dict[str, float]:
        """What all calls of `add_up` since the last call of this cost together.

        Returns:
            communication_seconds: of each from the first byte to the last, waiting for slower processes included;
            communication_bytes: of the buffers. Nothing for a process alone.
        """
        return {}

    def require_equal(self, tensors: Mapping[str, Tensor]) -> None:
        """Compares a checksum of every tensor with those of the other processes.

        Raises:
            TrainingError: they are not the same bits everywhere; the message names the first that differs.
        """

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The body runs in the first process, then in the first of each other machine, then in the rest.

        For what makes files that the next one only needs to open, on a shared disk or on one per machine.
        """
        yield


ALONE = Processes()
