"""Graphs that are the same for every model, kept on disk: to trace them takes most of the time of a small export."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

import t2tdeploy
from t2tdeploy.files import atomic_file, cache_directory

_EXPORTERS = ("torch", "onnx", "onnx-ir", "onnxscript")
_MOST = 4
"""Files of one name: of the newest versions of the code."""


def kept(name: str, make: Callable[[], Mapping[str, ModelProto]]) -> dict[str, ModelProto]:
    """The graphs that `make` makes, or made in an earlier process of the same code; by name.

    They must follow from code alone: the key is a hash of this package's files and the versions of the exporters. A
    folder that cannot be read or written stops nobody, nor does a damaged file: then the graphs are made.

    Args:
        name: of the group, part of a file's name.
    """
    path = cache_directory("pieces") / f"{name}-{_key()}.zip"
    found = _read(path)
    if found is None:
        found = dict(make())
        with suppress(OSError):
            _write(path, found)
            _remove_old(path.parent, name)
    return found


def _read(path: Path) -> dict[str, ModelProto] | None:
    try:
        with zipfile.ZipFile(path) as file:  # which checks what it reads
            return {name: ModelProto.FromString(file.read(name)) for name in file.namelist()}
    except (OSError, zipfile.BadZipFile, DecodeError):
        return None


def _write(path: Path, graphs: Mapping[str, ModelProto]) -> None:
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for name, graph in graphs.items():
            file.writestr(name, graph.SerializeToString())


def _remove_old(folder: Path, name: str) -> None:
    found = sorted(folder.glob(f"{name}-*.zip"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[_MOST:]:
        path.unlink(missing_ok=True)


@cache
def _key() -> str:
    root = Path(t2tdeploy.__file__).parent
    found = hashlib.sha256(platform.python_version().encode())
    for distribution in _EXPORTERS:
        found.update(f"{distribution}=={importlib.metadata.version(distribution)}\n".encode())
    for file in sorted(root.rglob("*.py")):
        content = file.read_bytes()
        found.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()[:32]
