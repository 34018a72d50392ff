"""The deployable directory: everything a server needs to answer, and how it is written, checked and read.

    bundle/manifest.json     what is in the bundle, with the checksum of every file and of itself
           model.onnx        source ids in, target ids out, beam search inside
           cpu-int8.onnx     further variants of it, which optimize adds
           source.vocab      the tokenizers (or one shared.vocab)
           target.vocab
           parity.json       how far the graph is from the model it was exported from
           text.onnx         only if asked for: strings in, strings out
           model.weights     then, the weights of model.onnx and text.onnx

A bundle that classifies or regresses has a model.onnx of examples to logits or values, and vocabularies of its texts.

Bundles are read by the t2tdeploy that wrote them and by every later one, see `manifest.FORMAT_VERSION`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from t2tdeploy import __version__
from t2tdeploy.errors import CorruptFileError, InputError, OperationalError, UnknownNameError, UnreadableError
from t2tdeploy.files import atomic_directory, mode_of, require_place, sha256_of
from t2tdeploy.manifest import (
    FORMAT_VERSION,
    DecodeDefaults,
    FeatureInput,
    FileName,
    Manifest,
    Task,
    TensorSpec,
    TextGraph,
    Variant,
    inside,
)
from t2tdeploy.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "Bundle",
    "DecodeDefaults",
    "FeatureInput",
    "FileName",
    "Manifest",
    "Task",
    "TensorSpec",
    "TextGraph",
    "Variant",
    "load_bundle",
    "read_manifest",
    "require_free",
    "write_bundle",
]

MANIFEST = "manifest.json"

_REPAIR = "copy the bundle again, or export it again"


class Bundle:
    """A checked bundle on disk; made by `load_bundle`."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._tokenizers: dict[str, Tokenizer] = {}

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that identify the bundle's content."""
        return self.manifest.checksums[MANIFEST][:12]

    @property
    def decode(self) -> DecodeDefaults:
        """How a bundle that translates is asked.

        Raises:
            InputError: it does something else.
        """
        decode = self.manifest.decode
        if decode is None:
            raise InputError(
                f"only a bundle that translates can do this; the task of {self.directory} is '{self.manifest.task}'",
                path=self.directory,
                help="ask it with t2tdeploy classify, or t2tdeploy.load(…).classify",
            )
        return decode

    def files(self) -> set[str]:
        """Names of all files of the bundle but the manifest."""
        return set(self.manifest.checksums) - {MANIFEST}

    def tokenizer(self, feature: str) -> Tokenizer:
        """The tokenizer of `feature` ("inputs" or "targets"); features that share a file share the object.

        Raises:
            UnknownNameError: the bundle has no such feature.
            InputError: the file has gone since it was checked.
            CorruptFileError: it is no vocabulary.
            UnreadableError: it cannot be read.
        """
        if feature not in self.manifest.tokenizers:
            raise UnknownNameError("feature", feature, self.manifest.tokenizers)
        file = self.manifest.tokenizers[feature]
        if file not in self._tokenizers:
            self._tokenizers[file] = load_tokenizer(self.directory / file)
        return self._tokenizers[file]

    def variant(self, name: str | None = None) -> Variant:
        """What the manifest says of a variant (None: the default one).

        Raises:
            UnknownNameError: the bundle has no such variant.
        """
        name = name or self.manifest.default_variant
        if name not in self.manifest.variants:
            raise UnknownNameError("variant", name, self.manifest.variants)
        return self.manifest.variants[name]

    def size(self, variant: str | None = None) -> int:
        """Bytes of a variant's graph and weights (None: of the default one).

        Raises:
            UnknownNameError: the bundle has no such variant.
        """
        return sum((self.directory / file).stat().st_size for file in self.variant(variant).files)

    def path(self, variant: str | None = None) -> Path:
        """The graph of `variant` (None: the default one).

        Raises:
            UnknownNameError: the bundle has no such variant.
        """
        return self.directory / self.variant(variant).file

    def require_unchanged(self, variant: str | None = None) -> None:
        """Checks the files of a variant's graph (None: of the default one) again, which were checked when it was read.

        Raises:
            CorruptFileError: one is gone, or another one is in its place.
            UnreadableError: one cannot be read.
        """
        for file in self.variant(variant).files:
            _verify_file(self.directory, file, self.manifest.checksums[file])


def write_bundle(
    directory: Path, manifest: Manifest, files: Mapping[str, bytes | Path], *, overwrite: bool = False
) -> Bundle:
    """Writes a bundle: `directory` appears whole or not at all.

    Args:
        manifest: its checksums and format version are ignored: those of `files`, and the present version.
        files: name in the bundle -> content, or a file to copy.
        overwrite: a bundle already at `directory` gives way; anything else there does not.

    Raises:
        ValueError: `files` lacks a file the manifest names, or names one outside the bundle.
        InputError: `directory` is taken.
        OperationalError: the disk refuses.
    """
    missing = manifest.files() - set(files)
    if missing:
        raise ValueError(f"files named by the manifest are not given: {sorted(missing)}")
    for name in files:
        inside(name)
    require_free(directory, overwrite)
    try:
        with atomic_directory(directory, replace=overwrite) as temporary:
            for name, content in files.items():
                _put(temporary / name, content)
            checksums = {name: sha256_of(temporary / name) for name in sorted(files)}
            written = manifest.model_copy(update={"checksums": checksums, "format_version": FORMAT_VERSION})
            record = written.model_dump(mode="json")
            record["checksums"][MANIFEST] = _manifest_digest(record)
            text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            (temporary / MANIFEST).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperationalError(f"cannot write the bundle {directory}: {error}") from error
    return load_bundle(directory)


def read_manifest(directory: Path) -> Manifest:
    """What a bundle says of itself; nothing is checked against it, see `load_bundle`.

    Raises:
        InputError: there is no bundle, or one written by a newer t2tdeploy.
        CorruptFileError: the manifest is damaged.
        UnreadableError: it is there, but cannot be read.
    """
    return _read_manifest(directory)[0]


def load_bundle(directory: Path) -> Bundle:
    """Reads a bundle and checks every file against its checksum.

    Raises:
        InputError: there is no bundle, or one written by a newer t2tdeploy.
        CorruptFileError: a file is missing, cut short or changed; the error names it.
        UnreadableError: a file is there, but cannot be read.
    """
    manifest, record = _read_manifest(directory)
    _verify(directory, manifest, record)
    return Bundle(directory, manifest)


def require_free(directory: Path, overwrite: bool) -> None:
    """Checks that a bundle may be written to `directory`, before the work that leads to it.

    Raises:
        InputError: it is taken: by anything without `overwrite`, by something that is no bundle with it; or its place
            cannot be written to.
    """
    if not directory.exists():
        require_place(directory)
        return
    if not overwrite:
        raise InputError(
            f"{directory} already exists", path=directory, help="choose another folder, or pass --overwrite"
        )
    if not directory.is_dir() or (any(directory.iterdir()) and not (directory / MANIFEST).is_file()):
        raise InputError(
            f"{directory} is not a bundle, so it is not overwritten", path=directory, help="choose another folder"
        )


def _put(path: Path, content: bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        shutil.copyfile(content, path)


def _read_manifest(directory: Path) -> tuple[Manifest, dict[str, Any]]:
    path = directory / MANIFEST
    if not _is_file(path):
        raise InputError(
            f"{directory} is not a bundle: it has no {MANIFEST}",
            path=path,
            help="give the folder that t2tdeploy export wrote",
        )
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableError(path, error) from error
    except ValueError as error:
        raise CorruptFileError(path, f"not JSON ({error})", help=_REPAIR) from error
    _require_readable_version(path, record)
    try:
        manifest = Manifest.model_validate(record)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise CorruptFileError(path, faults, help=_REPAIR) from error
    return manifest, record


def _require_readable_version(path: Path, record: Any) -> None:
    version = record.get("format_version") if isinstance(record, dict) else None
    if not isinstance(version, int):
        raise CorruptFileError(path, "it has no format_version", help=_REPAIR)
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} has bundle format version {version}; t2tdeploy {__version__} reads up to {FORMAT_VERSION}",
            path=path,
            help="upgrade t2tdeploy here, or export the bundle with this version",
        )


def _verify(directory: Path, manifest: Manifest, record: dict[str, Any]) -> None:
    if manifest.checksums.get(MANIFEST) != _manifest_digest(record):
        _refuse(directory / MANIFEST, "its checksum does not match")
    for file in sorted(manifest.files() - set(manifest.checksums)):
        _refuse(directory / file, "the manifest has no checksum for it")
    files = {file: checksum for file, checksum in manifest.checksums.items() if file != MANIFEST}
    for file in files:  # before gigabytes of others are read
        _require_readable(directory / file)
    for file, checksum in files.items():
        _verify_file(directory, file, checksum)


def _verify_file(directory: Path, file: str, checksum: str) -> None:
    _require_readable(directory / file)
    try:
        found = sha256_of(directory / file)
    except OSError as error:
        raise UnreadableError(directory / file, error) from error
    if found != checksum:
        _refuse(directory / file, "its checksum does not match")


def _require_readable(path: Path) -> None:
    if not _is_file(path):
        _refuse(path, "the file is missing")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UnreadableError(path, error) from error


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(mode_of(path))
    except OSError as error:
        raise UnreadableError(path, error) from error


def _refuse(path: Path, reason: str) -> NoReturn:
    raise CorruptFileError(path, reason, help=_REPAIR)


def _manifest_digest(record: dict[str, Any]) -> str:
    """SHA-256 of the manifest without its own checksum, independent of white space and the order of keys."""
    checksums = {file: digest for file, digest in record.get("checksums", {}).items() if file != MANIFEST}
    content = json.dumps({**record, "checksums": checksums}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
