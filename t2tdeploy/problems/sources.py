"""Published files: taken from `--source-dir` if they lie there, else downloaded into it.

A download resumes where it broke off, tries again with growing pauses, goes through the mirrors in order and appears
under its name only when it is whole and its checksum is right. The standard library does all of this: pooch has
neither resume nor mirrors, so nothing of it would remain but the call of hashlib.

A file whose SHA-256 nobody told us is pinned at first contact: what the first download had is recorded beside the
file, in FILE.sha256, and every later use and every later download is held to it. A file that was put there by hand,
without such a record, is taken as it is.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from t2tdeploy import __version__
from t2tdeploy.errors import CorruptFileError, DownloadError, InputError
from t2tdeploy.files import atomic_file, sha256_of
from t2tdeploy.problems.text import COMPRESSIONS
from t2tdeploy.progress import Reporter, SilentReporter, Task

_CHUNK_BYTES = 1 << 18
_PERMANENT = (400, 401, 403, 404, 410)


@dataclass(frozen=True)
class Source:
    """One published file.

    Args:
        name: its file name in `--source-dir`.
        urls: where it is published, mirrors in the order to try.
        sha256: its checksum, hexadecimal; None where none is known: the first download is recorded.
        md5: the same, for files of which only this was published. It finds out damage, not malice.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None
    md5: str | None = None


def fetch(
    source: Source,
    source_dir: Path,
    *,
    reporter: Reporter | None = None,
    attempts: int = 4,
    backoff_s: float = 1.0,
    timeout_s: float = 30.0,
) -> Path:
    """The path of the file in `source_dir`; it is downloaded if it is not there.

    For `corpus.en.gz` a decompressed `corpus.en` in `source_dir` will do as well; the checksum is not that of the
    decompressed text, so it is taken as it is.

    Args:
        attempts: tries per mirror.
        backoff_s: pause after the first failure, doubled after each further one.
        timeout_s: longest silence of a server.

    Raises:
        InputError: the file in `source_dir` is not the published one (the message has both checksums), or
            `source_dir` cannot be written.
        CorruptFileError: FILE.sha256 holds no checksum.
        DownloadError: no mirror gave the file.
    """
    path = source_dir / source.name
    pinned = None if source.sha256 else _recorded(path)
    source = replace(source, sha256=source.sha256 or pinned)
    if path.is_file():
        if fault := _fault(path, source):
            raise InputError(
                f"{path} is not the published file: {fault}",
                path=path,
                help="remove it to have it downloaded again, or replace it with the published one",
            )
        return path
    plain = path.with_suffix("")
    if path.suffix in COMPRESSIONS and plain.is_file():
        return plain
    download = _Download(source, path, reporter or SilentReporter(), timeout_s)
    reasons = []
    for url in source.urls:
        for attempt in range(attempts):
            if attempt:
                time.sleep(backoff_s * 2 ** (attempt - 1))
            try:
                return download.run(url)
            except _AttemptError as error:
                reasons.append(f"{url}: {error}")
                if error.permanent:
                    break
    help = f"put {source.name} into {source_dir} yourself"
    if pinned:
        help += f"; if a new version of it was published on purpose, remove {_record_path(path)}"
    raise DownloadError(source.urls[0], "; ".join(dict.fromkeys(reasons)), help=help)


def _fault(path: Path, source: Source) -> str | None:
    """What distinguishes the file from the published one, as far as that is known; None: nothing."""
    if source.sha256 is not None and (actual := sha256_of(path)) != source.sha256:
        return f"its SHA-256 is {actual}, expected {source.sha256}"
    if source.md5 is not None and (actual := _md5_of(path)) != source.md5:
        return f"its MD5 is {actual}, expected {source.md5}"
    return None


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    """The SHA-256 that the first download of `path` had, or None if there was none. The format is sha256sum's."""
    record = _record_path(path)
    if not record.is_file():
        return None
    content = record.read_bytes().decode("ascii", errors="replace")
    if not (match := re.match(r"[0-9a-f]{64}\b", content)):
        raise CorruptFileError(record, "it holds no SHA-256", help=f"remove it to take {path.name} as it is")
    return match[0]


class _AttemptError(Exception):
    """One attempt failed; `permanent`: this mirror will not do better next time."""

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


class _Download:
    """The attempts to get one file, which share the part received so far."""

    def __init__(self, source: Source, path: Path, reporter: Reporter, timeout_s: float) -> None:
        self.source, self.path, self.reporter, self.timeout_s = source, path, reporter, timeout_s
        self.partial = path.with_name(f".{path.name}.partial")
        self.partial_url: str | None = None

    def run(self, url: str) -> Path:
        """One attempt.

        Raises:
            _AttemptError: it failed.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.source.sha256 is None and self.partial_url != url:
                self.partial.unlink(missing_ok=True)  # without a checksum, never join parts of unknown origin
        except OSError as error:
            raise self._unwritable(error) from error
        self.partial_url = url
        fresh = not self.partial.exists()
        try:
            self._receive(url)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is as long as the file, or longer
                self.partial.unlink(missing_ok=True)
            raise _AttemptError(f"HTTP {error.code} {error.reason}", permanent=error.code in _PERMANENT) from error
        except urllib.error.URLError as error:
            raise _AttemptError(str(error.reason)) from error
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise _AttemptError(_words(error)) from error
        except OSError as error:
            raise self._unwritable(error) from error
        if fault := _fault(self.partial, self.source):
            self.partial.unlink()
            raise _AttemptError(fault, permanent=fresh)  # else the part that was here may have been the fault
        if self.source.sha256 is None:
            with atomic_file(_record_path(self.path)) as temporary:
                temporary.write_text(f"{sha256_of(self.partial)}  {self.path.name}\n", encoding="ascii")
        self.partial.rename(self.path)
        return self.path

    def _receive(self, url: str) -> None:
        have = self.partial.stat().st_size if self.partial.exists() else 0
        request = urllib.request.Request(url, headers={"User-Agent": f"t2tdeploy/{__version__}"})
        if have:
            request.add_header("Range", f"bytes={have}-")
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            resumed = response.status == 206
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise _AttemptError("the server resumed at another place")
            start = have if resumed else 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length is not None else None
            with self.reporter.task(f"downloading {self.source.name}", total, "B") as task:
                task.advance(start)
                received = start + self._append(response, task, resumed=resumed)
        if total is not None and received < total:
            raise _AttemptError(f"the connection broke off after {received} of {total} bytes")

    def _append(self, response: http.client.HTTPResponse, task: Task, *, resumed: bool) -> int:
        received = 0
        with self.partial.open("ab" if resumed else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                received += len(chunk)
                task.advance(len(chunk))
        return received

    def _unwritable(self, error: OSError) -> InputError:
        folder = self.path.parent
        return InputError(f"cannot write into {folder}: {error.strerror or error}", path=folder)


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:  # of the network; the disk's come from elsewhere
        raise _AttemptError(_words(error)) from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
