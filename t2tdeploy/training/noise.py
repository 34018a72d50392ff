"""Random numbers for training graphs other than dropout masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from t2tdeploy.training.graph.manifest import NoiseSpec, size_of


class Noise:
    """Draws the random numbers of a graph into one buffer, which grows with the largest batch.

    Args:
        specs: the random numbers of a graph.
        bits: what they are made of on a CPU. On a GPU they come from torch's own generator.
        device: where they are wanted.
    """

    def __init__(self, specs: Sequence[NoiseSpec], bits: np.random.BitGenerator, *, device: torch.device) -> None:
        self._specs = specs
        self._generator = np.random.Generator(bits)
        self._buffer = torch.empty(0, device=device)

    def draw(self, axes: Mapping[str, int]) -> dict[str, Tensor]:
        """New numbers for a batch of these axes, float32, by name; valid until the next call."""
        shapes = [tuple(size_of(axis, axes) for axis in spec.shape) for spec in self._specs]
        sizes = [int(np.prod(shape)) for shape in shapes]
        if sum(sizes) > self._buffer.numel():
            self._buffer = self._buffer.new_empty(sum(sizes))
        parts = torch.split(self._buffer[: sum(sizes)], sizes)
        for spec, part in zip(self._specs, parts, strict=True):
            self._fill(part, uniform=spec.distribution == "uniform")
        return {spec.name: part.view(shape) for spec, part, shape in zip(self._specs, parts, shapes, strict=True)}

    def _fill(self, part: Tensor, *, uniform: bool) -> None:
        if part.device.type != "cpu":
            part.uniform_() if uniform else part.normal_()
            return
        draw = self._generator.random if uniform else self._generator.standard_normal
        draw(dtype=np.float32, out=part.numpy())
