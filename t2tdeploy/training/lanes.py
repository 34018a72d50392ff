"""Two parts of a batch whose gradients are computed at once, each on its share of the threads.

A training graph is thousands of operators. At the end of each its threads wait for each other, and some have work for
one thread only. Two runs on a part of the batch each need not wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from t2tdeploy.training.dropout_masks import DropoutMasks
from t2tdeploy.training.engine import Batch
from t2tdeploy.training.graph.manifest import DENOMINATOR, LOSS_SCALE, NUMERATOR, Manifest, axes_of
from t2tdeploy.training.graph.runner import GraphRunner
from t2tdeploy.training.noise import Noise
from t2tdeploy.training.parameters import tensors_from

MIN_ROWS = 4
"""A smaller batch is not divided."""


class Lane:
    """A session of a training graph, with what its runs need and write for themselves.

    Args:
        runner: parameters are bound to it.
        manifest: of its graph.
        scale: of the gradients, [], set by the owner.
    """

    def __init__(self, runner: GraphRunner, manifest: Manifest, scale: Tensor, device: torch.device) -> None:
        self.masks = DropoutMasks(manifest.masks, device=device)
        self._noise = Noise(manifest.noise, self.masks.bits, device=device)
        self._runner, self._features, self._device = runner, manifest.features, device
        self._sums = {name: torch.zeros((), device=device) for name in (NUMERATOR, DENOMINATOR)}
        runner.bind_inputs({LOSS_SCALE: scale})
        runner.bind_outputs(self._sums)

    def bind_outputs(self, tensors: Mapping[str, Tensor]) -> None:
        """Where its runs write outputs that are not a batch's own."""
        self._runner.bind_outputs(tensors)

    def run(self, batch: Batch, into: Mapping[str, Tensor]) -> Tensor:
        """Writes the gradients of a batch over `into`; returns its summed loss, valid until the next run."""
        tensors = tensors_from(batch, self._device)
        axes = axes_of(self._features, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        self._runner.bind_inputs({**tensors, **self.masks.draw(axes), **self._noise.draw(axes)})
        self._runner.bind_outputs({f"{name}.grad": gradient for name, gradient in into.items()})
        self._runner.run()
        return self._sums[NUMERATOR]


def shares_of(threads: int) -> list[int]:
    """The threads of two lanes."""
    return [threads - threads // 2, threads // 2]


def divided(batch: Batch, shares: Sequence[int]) -> list[Batch]:
    """A batch in two, as many rows each as it has of the threads; the batch alone if it is small."""
    rows, first = len(next(iter(batch.values()))), shares[0]
    if rows < MIN_ROWS:
        return [batch]
    middle = rows * first // sum(shares)
    return [{name: array[part] for name, array in batch.items()} for part in (slice(middle), slice(middle, None))]
