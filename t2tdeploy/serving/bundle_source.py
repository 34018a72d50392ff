"""Where a server finds its bundles: folders given one by one, or a repository of models and versions.

    repository/ende/1/manifest.json     version 1 of the model "ende"
               ende/2/manifest.json
               deen/manifest.json       a bundle without a version folder is version 1

The layout is that of TensorFlow Serving and Triton; folders whose name is no positive number are not versions. Hidden
folders and lost+found, which mkfs makes at the root of a file system, are not models.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from t2tdeploy.bundle import MANIFEST, read_manifest
from t2tdeploy.errors import InputError, UnreadableError, UserError
from t2tdeploy.files import mode_of

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Path, size, modification time and inode of every file that may be seen: what differs between two contents of a
folder."""

_GONE = (FileNotFoundError, NotADirectoryError)
_OF_LINKS = (errno.ELOOP, errno.ENAMETOOLONG)  # that lead nowhere, and do not for a moment only
_LOST_AND_FOUND = "lost+found"

logger = logging.getLogger("t2tdeploy.serving")


def label_of(name: str, number: int) -> str:
    """Of a version, e.g. "ende:2"; of a model as a whole, number 0, its name."""
    return f"{name}:{number}" if number else name


@dataclass(frozen=True)
class Found:
    """A bundle on disk, not read yet.

    Args:
        number: its version; 0: a model whose folder cannot be looked into, so that its versions are not known.
        error: why it cannot be looked into; nothing is known of its files then.
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
        """The bundles that are there now, whatever their state. Cheap: no file is opened.

        Raises:
            UnreadableError: there is no telling which are there.
        """


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
                    help="export one of them under another name: t2tdeploy export --name NAME; or give a --repository "
                    "with a folder for each, whose names they are then served under",
                )
            self._directories[name] = directory

    def scan(self) -> list[Found]:
        """The bundles whose folders exist."""
        return _found((name, 1, directory) for name, directory in self._directories.items() if _is_there(directory))


class RepositoryFolder:
    """A folder with a folder for every model, and in it one for every version.

    Raises:
        InputError: there is no such folder, or it is a bundle.
        UnreadableError: it cannot be looked into.
    """

    strict = False

    def __init__(self, root: Path) -> None:
        try:
            is_folder, is_bundle = stat.S_ISDIR(mode_of(root)), stat.S_ISREG(mode_of(root / MANIFEST))
        except OSError as error:
            raise UnreadableError(root, error) from error
        if not is_folder:
            raise InputError(f"{root} is not a folder", path=root, help="a repository holds NAME/1, NAME/2, …")
        if is_bundle:
            raise InputError(f"{root} is a bundle, not a repository of bundles", path=root, help="give it as --bundle")
        self.root = root
        self._warn_of_versions()

    def scan(self) -> list[Found]:
        """Every version of every model, by name and number.

        Raises:
            UnreadableError: the repository itself cannot be looked into, or has gone.
        """
        try:
            models = sorted(one for one in self.root.iterdir() if _may_be_model(one.name))
        except OSError as error:
            raise UnreadableError(self.root, error) from error
        found = []
        for model in models:
            try:
                found += _versions(model)
            except _GONE:
                continue
            except OSError as error:
                found.append(Found(model.name, 0, model, (), UnreadableError(model, error)))
        return found

    def _warn_of_versions(self) -> None:
        """Of a folder one too deep, every version would be a model."""
        found = self.scan()
        if found and all(_is_number(one.name) and one.directory.parent == self.root for one in found):
            logger.warning(
                "%s holds bundles named %s: if they are versions of one model, give --repository %s",
                *(self.root, ", ".join(one.name for one in found), self.root.absolute().parent),
            )


def _may_be_model(name: str) -> bool:
    return not name.startswith(".") and name != _LOST_AND_FOUND


def _versions(model: Path) -> list[Found]:
    """
    Raises:
        OSError: the folder cannot be looked into.
    """
    if not stat.S_ISDIR(mode_of(model)):
        return []
    if stat.S_ISREG(mode_of(model / MANIFEST)):
        return _found([(model.name, 1, model)])
    numbered = {int(one.name): one for one in model.iterdir() if _is_version(one)}
    return _found((model.name, number, folder) for number, folder in sorted(numbered.items()))


def _found(versions: Iterable[tuple[str, int, Path]]) -> list[Found]:
    """Versions as they are now, each looked at by itself, without those that have just gone."""
    found = []
    for name, number, folder in versions:
        try:
            found.append(Found(name, number, folder, fingerprint_of(folder)))
        except _GONE:
            continue
        except OSError as error:
            found.append(Found(name, number, folder, (), UnreadableError(Path(error.filename or folder), error)))
    return found


def _is_version(path: Path) -> bool:
    return _is_number(path.name) and _is_there(path)


def _is_number(name: str) -> bool:
    return re.fullmatch(r"0*[1-9][0-9]{0,17}", name) is not None


def _is_there(path: Path) -> bool:
    """Whether it is a folder, as far as can be seen: to load it says why it cannot be read."""
    try:
        return stat.S_ISDIR(mode_of(path))
    except OSError:
        return True


def fingerprint_of(directory: Path) -> Fingerprint:
    """See `Fingerprint`; files that vanish meanwhile, or that may not be looked at, are left out.

    Of a folder that may not be listed its own state and that of a manifest in it must do: it may still be that the
    files can be read.

    Raises:
        OSError: the folder has gone, or a folder or file in it cannot be looked at for another reason.
    """
    entries = []

    def add(path: Path, kind: Callable[[int], bool]) -> None:
        try:
            status = path.stat()
        except OSError as error:
            if isinstance(error, (*_GONE, PermissionError)) or error.errno in _OF_LINKS:
                return
            raise
        if kind(status.st_mode):
            place = path.relative_to(directory).as_posix()
            entries.append((place, status.st_size, status.st_mtime_ns, status.st_ino))

    def not_listed(error: OSError) -> None:
        if isinstance(error, PermissionError):
            folder = Path(error.filename)
            add(folder, stat.S_ISDIR)
            add(folder / MANIFEST, stat.S_ISREG)
        elif not isinstance(error, _GONE) or error.filename == str(directory):
            raise error

    for folder, _, names in os.walk(directory, onerror=not_listed):
        for name in names:
            add(Path(folder, name), stat.S_ISREG)
    return tuple(sorted(entries))
