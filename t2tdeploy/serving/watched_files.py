"""Files that are read again when they change: certificates and tokens, which are renewed while a server runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from t2tdeploy.errors import InputError

logger = logging.getLogger("t2tdeploy.serving")

_Signature = tuple[tuple[int, int, int, int] | None, ...]
"""Inode, size, and times of modification and change of each file; None for one that cannot be looked at. A file that is
written into keeps its inode, one whose modification time is set keeps that, and one that may be read now keeps both."""


class WatchedFiles:
    """Reads files again when they differ from those read last. Follows links, so also when a link leads elsewhere,
    which is how Kubernetes replaces a mounted Secret.

    To be made before the files are read for the first time, so that a change in between is found.

    Args:
        what: they hold, as the log calls it: "the tokens are".
    """

    def __init__(self, paths: Sequence[Path], what: str) -> None:
        self._paths, self._what = tuple(paths), what
        self._seen: _Signature | None = self._signature()
        self._logged = ""

    def renew(self, read: Callable[[], None]) -> bool:
        """Calls `read` if the files have changed. An InputError leaves what was read before, and is logged: once,
        however often the same is met.

        Returns:
            Whether they were read.
        """
        signature = self._signature()
        if signature == self._seen:
            return False
        try:
            read()
        except InputError as error:
            # What the system refuses now (too many open files, a right not given yet) it may grant to the same file.
            self._seen = None if isinstance(error.__cause__, OSError) else signature
            if self._logged != (words := str(error)):
                logger.error("%s not renewed: %s", self._what, words)
            self._logged = words
            return False
        self._seen, self._logged = signature, ""
        return True

    def _signature(self) -> _Signature:
        return tuple(map(_signature, self._paths))


def _signature(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
