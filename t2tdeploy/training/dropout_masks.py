"""Random dropout masks for training graphs, from a generator whose state a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2tdeploy.training.graph.manifest import MaskSpec, size_of
from t2tdeploy.training.graph.masks import dropout_threshold

_CHUNK = 2**20  # elements drawn at once: their random bits stay in the cache


class DropoutMasks:
    """Draws the masks of a graph into one buffer, which grows with the largest batch.

    On a CPU the bits are those of SFC64 (Doty-Humphrey's PractRand), 8 for each element and 8 more for the one in 256
    that these do not decide, drawn several times as fast as torch's own Bernoulli numbers. On a GPU they are torch's,
    drawn at once for all masks of the same rate in a row.

    Args:
        specs: the masks of a graph.
        device: where the masks are wanted.
    """

    def __init__(self, specs: Sequence[MaskSpec], *, device: torch.device) -> None:
        self._specs = specs
        self._device = device
        self._buffer = torch.empty(0, dtype=torch.uint8, device=device)
        self.bits = np.random.SFC64(int(torch.randint(2**63 - 1, ()).item()))

    def seed(self, seed: int) -> None:
        """Starts the sequence that `seed` names."""
        self.bits.state = np.random.SFC64(seed).state

    def state(self) -> Tensor:
        """What decides the masks to come, [6] int64; on a GPU that is torch's own generator's."""
        state = self.bits.state
        words = [*state["state"]["state"].tolist(), state["has_uint32"], state["uinteger"]]
        return torch.from_numpy(np.array(words, dtype=np.uint64).view(np.int64))

    def set_state(self, state: Tensor) -> None:
        """Takes back what `state` gave."""
        *words, has_uint32, uinteger = state.numpy().view(np.uint64).tolist()
        self.bits.state = {
            "bit_generator": "SFC64",
            "state": {"state": np.array(words, dtype=np.uint64)},
            "has_uint32": has_uint32,
            "uinteger": uinteger,
        }

    def draw(self, axes: Mapping[str, int]) -> dict[str, Tensor]:
        """New masks for a batch of these axes, by name; valid until the next call."""
        shapes = {spec.name: tuple(size_of(axis, axes) for axis in spec.shape) for spec in self._specs}
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        if sum(sizes) > self._buffer.numel():
            self._buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=self._device)
        parts = torch.split(self._buffer[: sum(sizes)], sizes)
        start = 0
        for rate, alike in groupby(zip(self._specs, sizes, strict=True), key=lambda pair: pair[0].rate):
            size = sum(size for _, size in alike)
            self._fill(self._buffer[start : start + size], rate)
            start += size
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def _fill(self, mask: Tensor, rate: float) -> None:
        threshold = dropout_threshold(rate)
        if self._device.type != "cpu":
            mask.bernoulli_(1.0 - threshold / 2**16)
            return
        kept = mask.numpy().view(np.bool_)
        high, low = divmod(threshold, 2**8)
        for start in range(0, len(kept), _CHUNK):
            part = kept[start : start + _CHUNK]
            bits = self._bytes(len(part))
            np.greater(bits, high, out=part)
            undecided = np.flatnonzero(bits == high)
            part[undecided] = self._bytes(len(undecided)) >= low

    def _bytes(self, count: int) -> Any:
        """So many random bytes; as they come, those of words that are not used up are lost."""
        return self.bits.random_raw(-(-count // 8)).view(np.uint8)[:count]
