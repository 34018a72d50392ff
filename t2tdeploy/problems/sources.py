"""Published files: taken from `--source-dir` if they lie there, else downloaded into it.

A download resumes where it broke off, tries again with growing pauses, goes through the mirrors in order and appears
under its name only when it is whole and its checksum is right. The standard library does all of this: pooch has
neither resume nor mirrors, so nothing of it would remain but the call of hashlib.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from t2tdeploy import __version__
from t2tdeploy.errors import DownloadError, InputError
from t2tdeploy.files import sha256_of
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
        sha256: its checksum, hexadecimal; None where none is known: then only the length is checked.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None


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
        DownloadError: no mirror gave the file.
    """
    path = source_dir / source.name
    if path.is_file():
        _check_local(path, source)
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
    raise DownloadError(
        source.urls[0], "; ".join(dict.fromkeys(reasons)), help=f"put {source.name} into {source_dir} yourself"
    )


def _check_local(path: Path, source: Source) -> None:
    actual = sha256_of(path) if source.sha256 else None
    if actual != source.sha256:
        raise InputError(
            f"{path} is not the published file: its SHA-256 is {actual}, expected {source.sha256}",
            path=path,
            help="remove it to have it downloaded again, or replace it with the published one",
        )


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
        actual = sha256_of(self.partial)
        if self.source.sha256 not in (None, actual):
            self.partial.unlink()
            raise _AttemptError(f"its SHA-256 is {actual}, expected {self.source.sha256}")
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
