"""Which examples make which batch: length buckets with a token budget, as in Tensor2Tensor. numpy only, pure.

Where no feature is text there are no lengths, and `batch_size` counts examples: an epoch is a plain shuffle.

An epoch's plan is a function of (lengths, batch size, seed, epoch); world size and rank only choose from it. The place
in the data is therefore two numbers, (epoch, batch), and a run that resumes from them continues exactly.

We differ from Tensor2Tensor in three ways: a bucket includes its upper boundary, leftovers of a bucket join the next
longer one instead of waiting for a later epoch, and an epoch has every example exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from t2tdeploy.errors import InputError

Indices = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]
Batch = dict[str, npt.NDArray[Any]]  # feature -> an array as `features.Modality` says
Augment = Callable[[Batch, np.random.Generator], Batch]

_AUGMENTATION = 1  # tells the generator of a batch's augmentation from that of the epoch's plan


def bucket_boundaries(max_length: int, *, min_length: int = 8, growth: float = 1.1) -> list[int]:
    """Upper boundaries of the buckets below `max_length`, in tokens (Tensor2Tensor's `_bucket_boundaries`)."""
    boundaries = []
    length = min_length
    while length < max_length:
        boundaries.append(length)
        length = max(length + 1, int(length * growth))
    return boundaries


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch for one rank.

    Attributes:
        batches: example indices of each step. All ranks have the same number of steps; when the batches do not divide
            evenly, the last one of some ranks is empty.
        skipped: the examples longer than `max_length`, in ascending order.
        padding_share: pads / (pads + tokens) in the arrays of all features, over the epoch, all ranks together.
    """

    batches: list[Indices]
    skipped: Indices
    padding_share: float


def plan_epoch(
    lengths: Mapping[str, Lengths],
    *,
    batch_size: int,
    max_length: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    examples: int | None = None,
) -> EpochPlan:
    """Plans one epoch of training.

    Each example of at most `max_length` tokens is in exactly one batch of one rank. Step i of world size w trains on
    batches i·w … i·w + w - 1 of the epoch, whatever w is: step i of two ranks is steps 2i and 2i + 1 of one.

    Args:
        lengths: feature -> int32 [examples], tokens. The longest feature of an example is its length. Without any,
            the batches are a shuffle cut into parts of at most `batch_size` examples, all of one size or one less (no
            batch of a few left-over examples, from which batch normalisation would learn nothing good).
        batch_size: tokens of a batch at most, pads included, of its longest feature; an example longer than that is
            a batch of its own. Without lengths, examples of a batch at most.
        seed, epoch: what the shuffling depends on, both at least 0.
        examples: how many there are; needed only without lengths.
    """
    generator = np.random.default_rng([seed, epoch])
    if not lengths:
        assert examples is not None
        batches = np.array_split(generator.permutation(examples), max(1, -(-examples // batch_size)))
        return _share(batches, np.empty(0, np.int64), 0.0, rank, world_size)
    longest = _longest(lengths)
    skipped = np.flatnonzero(longest > max_length)
    shuffled = generator.permutation(np.flatnonzero(longest <= max_length))
    batches = _fill_buckets(longest, shuffled, batch_size=batch_size, max_length=max_length)
    batches = [batches[place] for place in generator.permutation(len(batches))]
    return _share(batches, skipped, _padding_share(lengths, batches), rank, world_size)


def _share(batches: list[Indices], skipped: Indices, padding_share: float, rank: int, world_size: int) -> EpochPlan:
    """What of an epoch's batches is for one rank; the last step is filled up with empty ones."""
    steps = -(-len(batches) // world_size)
    batches.extend(np.empty(0, np.int64) for _ in range(steps * world_size - len(batches)))
    return EpochPlan(batches[rank::world_size], skipped, padding_share)


def _fill_buckets(lengths: Lengths, shuffled: Indices, *, batch_size: int, max_length: int) -> list[Indices]:
    """Batches from short to long, each within one bucket but for the leftovers of shorter ones."""
    boundaries = [*bucket_boundaries(max_length), max_length]
    bucket = np.searchsorted(boundaries, lengths[shuffled], side="left")
    by_bucket = shuffled[np.argsort(bucket, kind="stable")]
    ends = np.cumsum(np.bincount(bucket, minlength=len(boundaries)))
    batches: list[Indices] = []
    start = 0  # of the examples not yet in a batch
    for boundary, end in zip(boundaries, ends, strict=True):
        size = max(1, batch_size // boundary)
        while end - start >= size:
            batches.append(by_bucket[start : start + size])
            start += size
    if start < len(by_bucket):
        batches.append(by_bucket[start:])
    return batches


def example_lengths(lengths: Mapping[str, Lengths], examples: int) -> Lengths:
    """What each example counts against `batch_size`: int32 [examples].

    That is the tokens of its longest feature, or 1 where no feature is text: then `plan_evaluation`, which is given
    these, makes batches of `batch_size` examples, in their order.
    """
    return _longest(lengths) if lengths else np.ones(examples, np.int32)


def _longest(lengths: Mapping[str, Lengths]) -> Lengths:
    return reduce(np.maximum, lengths.values())


def _padding_share(lengths: Mapping[str, Lengths], batches: list[Indices]) -> float:
    tokens = places = 0
    for feature_lengths in lengths.values():
        for batch in batches:
            in_batch = feature_lengths[batch]
            tokens += int(in_batch.sum())
            places += len(batch) * int(in_batch.max())
    return 1 - tokens / places if places else 0.0


def plan_evaluation(lengths: Lengths, *, batch_size: int) -> list[Indices]:
    """Batches with every example exactly once, longest first, so that memory trouble shows at the start.

    A batch has at most `batch_size` tokens, pads included; an example longer than that is a batch of its own.

    Args:
        lengths: tokens of each example, as `Dataset.example_lengths` has them: ones where no feature is text, so that
            `batch_size` counts examples there.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(1, batch_size // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


@dataclass(frozen=True)
class Position:
    """A place in the data: batch number `batch` of epoch `epoch`, both from 0."""

    epoch: int = 0
    batch: int = 0


class BatchSource(Protocol):
    """What a stream needs of a dataset."""

    @property
    def lengths(self) -> dict[str, Lengths]:
        """feature -> int32 [examples], of the features that are text."""

    def __len__(self) -> int:
        """The number of examples."""

    def batch(self, indices: Indices) -> Batch:
        """feature -> an array as `features.Modality` says."""


def augmented(batch: Batch, augment: Augment, *, seed: int, epoch: int, number: int) -> Batch:
    """`augment` of a training batch, with a generator that depends on nothing but these numbers.

    So a run that goes on from a checkpoint, with however many processes, sees the same batches.

    Args:
        number: of the batch in its epoch, those of all processes counted.
    """
    return augment(batch, np.random.default_rng([seed, epoch, number, _AUGMENTATION]))


class BatchStream:
    """Training batches without end, epoch after epoch.

    On the last step of an epoch a rank may get a batch of no examples (arrays [0, 0]), see `EpochPlan`.

    Args:
        position: where to begin; the `position` of a stream that was stopped continues it exactly.
        augment: what is done to every batch but empty ones, see `augmented`; None: nothing.

    Attributes:
        position: of the batch that comes next.
        plan: of the epoch that `position` is in.

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
        rank: int = 0,
        world_size: int = 1,
        position: Position = Position(),
        augment: Augment | None = None,
    ) -> None:
        self._dataset = dataset
        self._lengths = dataset.lengths
        self._batch_size, self._max_length, self._seed = batch_size, max_length, seed
        self._rank, self._world_size = rank, world_size
        self._augment = augment
        if self._lengths and not (_longest(self._lengths) <= max_length).any():
            raise InputError(
                f"none of the {len(dataset)} training examples has at most max_length = {max_length} tokens",
                help="raise max_length",
            )
        self.position = position
        self.plan = self._plan(position.epoch)
        self._enter_next_epoch_if_done()

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        indices, (epoch, number) = self.plan.batches[self.position.batch], (self.position.epoch, self.position.batch)
        self.position = Position(epoch, number + 1)
        self._enter_next_epoch_if_done()
        batch = self._dataset.batch(indices)
        if self._augment is None or not len(indices):
            return batch
        of_all = number * self._world_size + self._rank
        return augmented(batch, self._augment, seed=self._seed, epoch=epoch, number=of_all)

    def _enter_next_epoch_if_done(self) -> None:
        if self.position.batch >= len(self.plan.batches):
            self.position = Position(self.position.epoch + 1, 0)
            self.plan = self._plan(self.position.epoch)

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(
            self._lengths,
            batch_size=self._batch_size,
            max_length=self._max_length,
            seed=self._seed,
            epoch=epoch,
            rank=self._rank,
            world_size=self._world_size,
            examples=len(self._dataset),
        )
