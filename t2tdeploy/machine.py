"""What a measurement depends on: this machine's processor, and this process's memory."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from pathlib import Path


def cpu_model() -> str:
    """The processor in its own words ("AMD EPYC 7763 64-Core Processor"), or its architecture."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def resident_bytes() -> int:
    """Memory of this process in RAM now; where the system does not tell, the most it has been."""
    return _status("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most memory that this process has had in RAM."""
    kilobytes = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes


def release_freed_memory() -> bool:
    """Gives the kernel back what the C library's heap holds of freed memory. Takes milliseconds; what is in use stays.

    glibc returns freed memory by itself only from the end of its heap, so that what a parsed graph or a raw copy of
    weights leaves below stays resident for good.

    Returns:
        True if there was something to give; False also elsewhere than glibc, where nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1


def _status(field: str) -> int:
    """A size of /proc/self/status in bytes; 0 if there is none."""
    return next((int(line.split()[1]) * 1024 for line in _lines("/proc/self/status") if line.startswith(field)), 0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
