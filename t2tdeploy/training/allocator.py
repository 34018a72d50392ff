"""Keeps freed memory in the process while training on a CPU.

glibc gives every block over 32 MiB back to the kernel when it is freed and faults its pages in again at the next step;
for the logits of a large vocabulary that costs more than computing them (benchmarks/allocator.py).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Makes malloc serve large blocks from the heap and keep the heap's top. Call before the first step.

    Returns:
        True if the C library took the setting; False elsewhere than glibc, where nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in settings)
