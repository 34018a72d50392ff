"""Where a server finds its bundles: folders given one by one, or a repository of models and versions.

    repository/ende/1/manifest.json     version 1 of the model "ende"
               ende/2/manifest.json
               deen/manifest.json       a bundle without a version folder is version 1

The layout is that of TensorFlow Serving and Triton; folders whose name is no positive number are not versions.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from t2tdeploy.bundle import MANIFEST, read_manifest
from t2tdeploy.errors import InputError, UnreadableError, UserError
from t2tdeploy.files import mode_of

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Path, size, modification time and inode of every file: what differs between two contents of a folder."""


def label_of(name: str, number: int) -> str:
    """Of a version, e.g. "ende:2"; of a model as a whole, number 0, its name."""
    return f"{name}:{number}" if number else name


@dataclass(frozen=True)
class Found:
    """A bundle on disk, not read yet.

    Args:
        error: why the folder of a model cannot be looked into; its number is 0 then.
    """

    name: str
    number: int
    directory: Path
    fingerprint: Fingerprint
    error: UnreadableError | None = None

    @property
    def label(self) -> str:
        """See `label_of`."""
        return label_of(self.name, self.number)


class BundleSource(Protocol):
    """Where bundles come from.

    Attributes:
        strict: whether a server needs every one of them in order to start.
    """

    strict: bool

    def scan(self) -> list[Found]:
        """The bundles that are there now, whatever their state. Cheap: no file is opened."""


class BundleFolders:
    """Bundles given one by one; each is version 1 of the model that its manifest names.

    Raises:
        InputError: a folder is no bundle.
        CorruptFileError: a manifest is damaged.
        UnreadableError: a manifest cannot be read.
        UserError: two bundles have the same name.
    """

    strict = True

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories: dict[str, Path] = {}
        for directory in directories:
            name = read_manifest(directory).name
            if name in self._directories:
                raise UserError(
                    f"{self._directories[name]} and {directory} are both named '{name}'",
                    help="give a --repository with a folder for each, whose names they are then served under",
                )
            self._directories[name] = directory

    def scan(self) -> list[Found]:
        """The bundles whose folders exist."""
        return [
            Found(name, 1, directory, fingerprint_of(directory))
            for name, directory in self._directories.items()
            if _is_there(directory)
        ]


class RepositoryFolder:
    """A folder with a folder for every model, and in it one for every version.

    Raises:
        InputError: there is no such folder.
    """

    strict = False

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"{root} is not a folder", path=root, help="a repository holds NAME/1, NAME/2, …")
        if (root / MANIFEST).is_file():
            raise InputError(f"{root} is a bundle, not a repository of bundles", path=root, help="give it as --bundle")
        self.root = root

    def scan(self) -> list[Found]:
        """Every version of every model, by name and number."""
        found = []
        for model in sorted(one for one in self.root.iterdir() if not one.name.startswith(".")):
            try:
                found += _versions(model)
            except (FileNotFoundError, NotADirectoryError):  # it has just gone
                continue
            except OSError as error:
                found.append(Found(model.name, 0, model, (), UnreadableError(model, error)))
        return found


def _versions(model: Path) -> list[Found]:
    """
    Raises:
        OSError: the folder cannot be looked into.
    """
    if not stat.S_ISDIR(mode_of(model)):
        return []
    if stat.S_ISREG(mode_of(model / MANIFEST)):
        return [Found(model.name, 1, model, fingerprint_of(model))]
    numbered = {int(one.name): one for one in model.iterdir() if _is_version(one)}
    return [Found(model.name, number, folder, fingerprint_of(folder)) for number, folder in sorted(numbered.items())]


def _is_version(path: Path) -> bool:
    return re.fullmatch(r"0*[1-9][0-9]{0,17}", path.name) is not None and _is_there(path)


def _is_there(path: Path) -> bool:
    """Whether it is a folder, as far as can be seen: to load it says why it cannot be read."""
    try:
        return stat.S_ISDIR(mode_of(path))
    except OSError:
        return True


def fingerprint_of(directory: Path) -> Fingerprint:
    """See `Fingerprint`; files that vanish meanwhile are left out, and all of a folder that may not be looked into."""
    entries = []
    try:
        paths = sorted(directory.rglob("*"))
    except PermissionError:
        return ()
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            entries.append((path.relative_to(directory).as_posix(), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(entries)
