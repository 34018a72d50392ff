"""Gradients that lie in a few flat buffers, so that processes add them up in a few calls and copy nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20  # as torch's DistributedDataParallel: large enough that latency does not count


class GradientBuckets:
    """Makes the `.grad` of every parameter a view into a flat buffer, for good.

    Gradients are laid out from the last parameter to the first, roughly the order in which backward makes them.

    Args:
        parameters: all on one device; at least one.
        bucket_bytes: a buffer is closed once it has so many.

    Attributes:
        buffers: flat, contiguous, together all gradients and `extra`.
        extra: [], a place at the end of the last buffer for a number that is to be added up as well.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.buffers: list[Tensor] = []
        self._views: list[tuple[nn.Parameter, Tensor]] = []
        bucket: list[nn.Parameter] = []
        for parameter in reversed(parameters):
            if bucket and (bucket[0].dtype != parameter.dtype or _bytes(bucket) >= bucket_bytes):
                self._close(bucket)
                bucket = []
            bucket.append(parameter)
        self._close(bucket, places=1)
        self.extra = self.buffers[-1][-1]

    def clear(self) -> None:
        """Gradients of zero, in the buffers whatever `.grad` was in between."""
        for buffer in self.buffers:
            buffer.zero_()
        for parameter, view in self._views:
            parameter.grad = view

    def _close(self, bucket: Sequence[nn.Parameter], places: int = 0) -> None:
        """Lays out one buffer, with so many `places` behind the gradients."""
        size = sum(parameter.numel() for parameter in bucket) + places
        buffer = torch.zeros(size, dtype=bucket[0].dtype, device=bucket[0].device)
        self.buffers.append(buffer)
        start = 0
        for parameter in bucket:
            view = buffer[start : start + parameter.numel()].view(parameter.shape)
            self._views.append((parameter, view))
            parameter.grad = view
            start += parameter.numel()


def _bytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
