"""Examples of a file held out of train for dev and test: those with the smallest hashes, found in one pass.

They are the same ones whatever the order of the lines, and a corpus need not fit into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heappush, heappushpop
from itertools import islice
from operator import itemgetter

from t2tdeploy.problems.problem import Sample
from t2tdeploy.problems.text import BadLines

Key = Callable[[Sample], int]
PlacedSample = tuple[int, Sample]  # number of the sample in train, from 0, and the sample
HeldOut = dict[str, dict[int, PlacedSample]]  # split -> key of a sample -> the sample


def text_key(text: str) -> int:
    """64 bits of a hash of `text`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def choose_held_out(samples: Iterable[Sample], key: Key, wanted: Mapping[str, int]) -> tuple[HeldOut, int]:
    """Chooses distinct samples of train for other splits, at most a tenth of train for each; also counts train.

    Args:
        key: what samples are chosen by; those of one key are one sample.
        wanted: split -> number of samples.
    """
    smallest, count = _Smallest(sum(wanted.values())), 0
    for sample in samples:
        smallest.add(key(sample), (count, sample))
        count += 1
    chosen = iter(sorted(smallest.values.items()))
    return {split: dict(islice(chosen, min(size, count // 10))) for split, size in wanted.items()}, count


def train_without(
    samples: Iterable[Sample], key: Key, held_out: HeldOut, bad_lines: BadLines, *, what: str
) -> Iterator[Sample]:
    """The samples that are not held out; further copies of those that are go to `bad_lines`.

    Args:
        what: what one sample is called ("pair").
    """
    keys, seen = set[int]().union(*held_out.values()), set[int]()
    if not keys:  # nothing to look for
        yield from samples
        return
    for number, sample in enumerate(samples, start=1):
        found = key(sample)
        if found not in keys:
            yield sample
        elif found in seen:
            bad_lines.add(f"{what}s of train", number, f"copy of a held-out {what}")
        else:
            seen.add(found)


def in_order(held_out: Mapping[int, PlacedSample]) -> Iterator[Sample]:
    """The samples of one split, in the order of train."""
    for _, sample in sorted(held_out.values(), key=itemgetter(0)):
        yield sample


class _Smallest:
    """The `count` smallest distinct keys of a stream, each with the value it first came with."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[int] = []  # negated: the largest kept key first
        self.values: dict[int, PlacedSample] = {}

    def add(self, key: int, value: PlacedSample) -> None:
        if key in self.values:
            return
        if len(self._heap) < self._count:
            heappush(self._heap, -key)
        elif self._heap and (dropped := -heappushpop(self._heap, -key)) != key:
            del self.values[dropped]
        else:
            return
        self.values[key] = value
