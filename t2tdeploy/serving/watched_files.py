"""Files that are read again when they change: certificates and tokens, which are renewed while a server runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Signature = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and modification time of each file; None for one that is not there."""


class WatchedFiles:
    """Tells whether files differ from those seen last. Follows links, so also when a link leads elsewhere, which is how
    Kubernetes replaces a mounted Secret."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._seen: Signature | None = None

    def changed(self) -> Signature | None:
        """What the files are now, if that was not seen yet; else None."""
        now = tuple(map(_signature, self._paths))
        return None if now == self._seen else now

    def see(self, signature: Signature) -> None:
        """Remembers what has been read: as it was before, so that a change while reading is found next time."""
        self._seen = signature


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
