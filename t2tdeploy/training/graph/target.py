"""What a training graph is built for: translations ask, since what is fast on a CPU may be slow or missing on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from t2tdeploy.training.precision import Precision

Device = Literal["cpu", "cuda"]


class Target(NamedTuple):
    """Where and how a graph shall compute.

    Args:
        device: the graph has standard operators in any case; for "cuda" those that onnxruntime's CUDA provider has.
        precision: of matrix products. Parameters, gradients and sums over the batch are float32.
    """

    device: Device = "cpu"
    precision: Precision = "float32"


_current: ContextVar[Target | None] = ContextVar("target", default=None)


@contextmanager
def building_for(target: Target) -> Iterator[None]:
    """Inside it, `current_target` is `target`."""
    token = _current.set(target)
    try:
        yield
    finally:
        _current.reset(token)


def current_target() -> Target:
    """What the graph that is being translated is for."""
    return _current.get() or Target()
