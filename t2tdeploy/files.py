"""Files and folders that appear and go as a whole or not at all, their checksums, and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from t2tdeploy.errors import InputError, nearest

_WRITING_FAILED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>partial|old)")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mode_of(path: Path) -> int:
    """`st_mode` of what a path leads to; 0: there is nothing.

    `Path.is_file` and `is_dir` take what may not be looked at for absent, in some versions of Python.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def help_to_find(path: Path) -> str | None:
    """The name beside a missing file or folder that looks most like it."""
    try:
        close = nearest(path.name, [other.name for other in path.parent.iterdir()])
    except OSError:
        return None
    return f"did you mean '{close}'?" if close else None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within it the file at `path` is read; what the system has against that is an error of the user.

    Raises:
        InputError: there is no such file (with the nearest name beside it), it is a folder, or may not be read.
        OSError: one without a number comes from a library, such as a decompressor, and is about the content.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"there is no file {path}", path=path, help=help_to_find(path)) from error
    except OSError as error:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a file", path=path, help="name one file in it") from error
        if error.errno is None:
            raise
        raise InputError(f"cannot read {path}: {os.strerror(error.errno)}", path=path) from error


def cache_directory(kind: str) -> Path:
    """Where things of one kind are kept that can be made again: the folder `kind` in `$T2TDEPLOY_CACHE`, else in
    `t2tdeploy` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("T2TDEPLOY_CACHE"):
        return Path(own).expanduser() / kind
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "t2tdeploy" / kind


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds `path` to an OSError of writing that names no file, as those do that come from an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _WRITING_FAILED:
            error.filename = str(path)
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed to `path`, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _hidden(path, "partial")
    try:
        with naming(path):
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """Yields a path to write what a user wants at `path`: a pipe or device itself, which is not replaced; else one as
    `atomic_file` does, for what a link leads to."""
    if path.exists() and not path.is_file():
        yield path
        return
    with atomic_file(path.resolve()) as temporary:
        yield temporary


def require_writable(path: Path) -> None:
    """Checks that `written_file` could write `path`, before the work that leads to it. Nothing is written.

    Raises:
        InputError: it is a folder, or its place is none that may be written to.
    """
    try:
        mode = mode_of(path)
        mode_of(_hidden(path, "partial"))  # its name is longer
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", path=path) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"cannot write {path}: it is a folder", path=path, help="name the file to write")
    if mode and not stat.S_ISREG(mode):
        if not _may(path, os.W_OK):
            raise InputError(f"cannot write {path}: it is a pipe or device that may not be written to", path=path)
        return
    require_place(Path(os.path.realpath(path)))


def require_place(path: Path) -> None:
    """Checks that a file or folder could be made at `path`, together with the folders on the way to it.

    Raises:
        InputError: the nearest of these that exists is no folder, or may not be written to or looked into.
    """
    try:
        place = next(parent for parent in path.absolute().parents if mode_of(parent))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", path=path) from None
    if not place.is_dir() or not _may(place, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: {place} is not a folder that may be written to", path=place)


def require_folder(path: Path) -> None:
    """Checks that files may be written into the folder `path`, or that it could be made.

    Raises:
        InputError: they may not.
    """
    try:
        mode = mode_of(path)
    except OSError as error:
        raise InputError(f"cannot write into {path}: {error.strerror}", path=path) from None
    if not mode:
        require_place(path)
    elif not stat.S_ISDIR(mode) or not _may(path, os.W_OK | os.X_OK):
        raise InputError(f"cannot write into {path}: it is not a folder that may be written to", path=path)


def _may(path: Path, what: int) -> bool:
    return os.access(path, what, effective_ids=os.access in os.supports_effective_ids)


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it is synced and renamed to `path`, else removed.

    What an earlier process that was killed left of the same folder is put right first, see `recover`.

    Args:
        path: if it is a link, what it leads to is written.
        replace: a folder already at `path` gives way; without it FileExistsError is raised at once.
    """
    path = path.resolve() if path.is_symlink() else path
    recover(path)
    if path.exists() and not replace:
        raise FileExistsError(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _hidden(path, "partial")
    temporary.mkdir()
    try:
        with naming(path):
            yield temporary
            for file in (temporary, *temporary.rglob("*")):
                _sync(file)
        if path.exists():
            old = _hidden(path, "old")
            path.replace(old)  # a kill before the next line leaves no `path`: `recover` undoes this one
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(path: Path) -> None:
    """Puts right what a killed process left of `path`: the old folder returns if no new one took its place.

    Only for who alone writes `path`: half-written pieces are removed, whoever writes them.
    """
    for leftover, kind in _leftovers(path.parent).get(path.name, ()):
        if kind == "old" and not path.exists():
            leftover.replace(path)
        elif leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def recover_all(folder: Path, *, but: Collection[str] = ()) -> None:
    """Puts right whatever a killed process left in `folder`, but of the names `but`; see `recover`."""
    for name in _leftovers(folder):
        if name not in but:
            recover(folder / name)


def is_leftover(path: Path) -> bool:
    """True for the hidden pieces that a killed process leaves."""
    return _LEFTOVER.fullmatch(path.name) is not None


def remove_directory(path: Path) -> None:
    """Removes a folder so that no half of it is ever seen under its name."""
    hidden = _hidden(path, "partial")
    path.replace(hidden)
    shutil.rmtree(hidden)


def lock_file(path: Path) -> IO[bytes] | None:
    """Locks `path` against other processes for as long as the returned file is open, at most until this one ends.

    A file system without locks (some network ones) protects nobody, and nobody is refused.

    Returns:
        None if another process has the lock.
    """
    file = path.open("ab")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            return None
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return file


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}")


def _leftovers(folder: Path) -> dict[str, list[tuple[Path, str]]]:
    """Name of the file or folder -> its hidden pieces and their kinds, the old ones first."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for path in sorted(folder.glob(".*"), key=lambda path: path.suffix):
        if match := _LEFTOVER.fullmatch(path.name):
            found.setdefault(match["name"], []).append((path, match["kind"]))
    return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
