"""Built training graphs on disk, by the hash of what they were built from (see graph_key.py), within a size bound."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t2tdeploy.errors import OperationalError
from t2tdeploy.files import (
    atomic_directory,
    cache_directory,
    is_leftover,
    lock_file,
    recover_all,
    remove_directory,
    sha256_of,
    write_json,
)
from t2tdeploy.progress import Reporter, SilentReporter

DEFAULT_BYTES = 2**30
_MANIFEST = "entry.json"  # of one entry: file -> its SHA-256; its modification time is when the entry was last used
_LOCK = ".lock"
_LOCK_SECONDS = 30.0


def default_directory() -> Path:
    """`graphs` in `files.cache_directory`."""
    return cache_directory("graphs")


class GraphCache:
    """Folders of files by key. Several processes may share the directory; within a process, one thread uses it.

    A cache that cannot be written (read-only, disk full, another process holds its lock) stops nobody: `put` then
    leaves the files in a temporary folder that lives as long as this object, and says so.

    Args:
        directory: made when something is put; see `default_directory`.
        max_bytes: bound on the sum of the entries' files; those unused for longest go first.
        reporter: told about damaged entries, and about what could not be kept.
    """

    def __init__(self, directory: Path, *, max_bytes: int = DEFAULT_BYTES, reporter: Reporter | None = None) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._reporter = reporter or SilentReporter()
        self._temporary: list[tempfile.TemporaryDirectory[str]] = []

    def get(self, key: str) -> Path | None:
        """The folder put under `key`, its files checked against their checksums.

        Another process's `put` may evict the entry later: open or copy what is needed at once.

        Returns:
            None if there is none, or if it is damaged: then it is removed.
        """
        entry = self.directory / key
        fault = _fault(entry) if os.path.lexists(entry) else None
        if not os.path.lexists(entry):  # or no longer: another process evicted it
            return None
        if fault is not None:
            self._reporter.message(f"the cached training graph {entry} is damaged ({fault}): it will be built again")
            with suppress(OSError):  # e.g. a read-only cache: `put` will say so
                _remove(entry)
            return None
        with suppress(OSError):
            os.utime(entry / _MANIFEST)
        return entry

    def put(self, key: str, write: Callable[[Path], None]) -> Path:
        """Files under `key` what `write` writes into the folder it is given; evicts what is then too much.

        If another process put a sound entry meanwhile, that one stays. An entry larger than the bound is kept alone.
        The name `entry.json` is taken.

        Returns:
            the entry, or where the files are if they could not be kept.

        Raises:
            OperationalError: temporary files cannot be written either.
        """
        built = _write_temporarily(write)
        folder = Path(built.name)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._locked():
                recover_all(self.directory)
                self._keep(folder, key)
                self._evict(key)
        except OSError as error:
            self._temporary.append(built)
            self._reporter.message(f"the training graph was not kept in {self.directory}: {error.strerror or error}")
            return folder
        built.cleanup()
        return self.directory / key

    def _keep(self, folder: Path, key: str) -> None:
        entry = self.directory / key
        if os.path.lexists(entry):
            if _fault(entry) is None:
                return
            _remove(entry)
        with atomic_directory(entry) as temporary:
            shutil.copytree(folder, temporary, dirs_exist_ok=True)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            write_json(
                temporary / _MANIFEST,
                {"files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}},
            )

    def _evict(self, kept: str) -> None:
        """Removes the entries unused for longest until the rest fits; `kept` stays."""
        entries = [path for path in self.directory.iterdir() if path.is_dir() and not is_leftover(path)]
        sizes = {entry: _bytes(entry) for entry in sorted(entries, key=_last_used)}
        excess = sum(sizes.values()) - self._max_bytes
        for entry, size in sizes.items():
            if excess > 0 and entry.name != kept:
                try:
                    _remove(entry)
                    excess -= size
                except OSError as error:
                    self._reporter.message(f"{entry} could not be removed from the cache: {error.strerror or error}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes that write into this cache."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while (lock := lock_file(self.directory / _LOCK)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process has held {self.directory / _LOCK} for {_LOCK_SECONDS:.0f} s")
            time.sleep(0.05)
        with lock:
            yield


def _write_temporarily(write: Callable[[Path], None]) -> tempfile.TemporaryDirectory[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="t2tdeploy-graph-")
        try:
            write(Path(folder.name))
        except BaseException:
            folder.cleanup()
            raise
    except OSError as error:
        raise OperationalError(
            f"the training graph cannot be written to a temporary folder: {error}",
            help="make room, or name another folder in TMPDIR",
        ) from error
    return folder


def _fault(entry: Path) -> str | None:
    """What is wrong with an entry, if anything is."""
    try:
        checksums = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))["files"]
        wrong = [name for name, checksum in checksums.items() if sha256_of(entry / name) != checksum]
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else str(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} cannot be read"
    return f"{', '.join(wrong)}: wrong checksum" if wrong else None


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        remove_directory(entry)
    else:
        entry.unlink()


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _last_used(entry: Path) -> float:
    """Seconds since the epoch; 0 for an entry without manifest, which is of no use to anybody."""
    try:
        return (entry / _MANIFEST).stat().st_mtime
    except OSError:
        return 0.0
