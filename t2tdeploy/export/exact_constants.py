"""onnxscript's clean-up of graphs without its tolerance for constants.

It takes a number within 1e-8 of 0 for 0, and one within 1e-5 of 1 for 1, so that `x + 1e-9` would become x, of a model
or of targets in a small unit. This reaches into a part of onnxscript 0.7 that is not public; where that cannot be
imported, the tolerance stays, and the comparison of graph and model finds what it made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

try:
    from onnxscript.rewriter import _matcher
except ImportError:
    _matcher = None  # type: ignore[assignment]


@contextmanager
def exact_constants() -> Iterator[None]:
    """Inside, a constant of a pattern is only found where it is exactly that."""
    if not hasattr(_matcher, "math"):
        yield
        return
    before = _matcher.math
    _matcher.math = SimpleNamespace(isclose=_same)
    try:
        yield
    finally:
        _matcher.math = before


def _same(found: float, wanted: float, **tolerances: float) -> bool:
    del tolerances
    return found == wanted
