"""A process that the system lets write, or open, no more than so much; also those that it starts meanwhile."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writing fails as on a full disk, with EFBIG in place of ENOSPC."""
    with _limited(resource.RLIMIT_FSIZE, size):
        yield


@contextmanager
def no_more_files() -> Iterator[None]:
    """None can be opened."""
    first_free = os.open(os.devnull, os.O_RDONLY)
    os.close(first_free)
    with _limited(resource.RLIMIT_NOFILE, first_free):
        yield


@contextmanager
def _limited(kind: int, most: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)
