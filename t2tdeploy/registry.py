"""Name -> object for problems, models and hparams sets.

Built-in modules, installed packages and a user's folder all come the same way: a module is imported and its
decorators register what it defines. Built-ins and packages name their modules as entry points (groups
`t2tdeploy.problems`, `t2tdeploy.models`, `t2tdeploy.hparams`), so this file imports nothing above it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from t2tdeploy.errors import InputError, UnknownNameError, UserError
from t2tdeploy.files import help_to_find

T = TypeVar("T")
C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[[], Any])


def snake_case(name: str) -> str:
    """`TranslateEndeMulti30k` -> `translate_ende_multi30k` (Tensor2Tensor's rule)."""
    partial = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", partial).lower()


class Registry(Generic[T]):
    """The objects of one kind, by name.

    Args:
        kind: what the objects are, for messages ("problem").
        group: entry-point group whose modules register objects of this kind.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._objects: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str | None = None) -> Callable[[T], T]:
        """Decorator that files a class or function under `name` (default: its own name in snake_case).

        Raises:
            UserError: the name is taken by another object.
        """

        def file(target: T) -> T:
            key = name or snake_case(target.__name__)  # type: ignore[attr-defined]  # classes and functions
            if key in self._objects and not _same_definition(self._objects[key], target):
                raise UserError(
                    f"{self.kind} '{key}' is already registered by {_origin(self._objects[key])}",
                    help=f"give {_origin(target)} another name",
                )
            self._objects[key] = target
            return target

        return file

    def get(self, name: str) -> T:
        """The object called `name`.

        Raises:
            UnknownNameError: there is none; the error carries all names and the nearest.
        """
        self._load()
        if name not in self._objects:
            raise UnknownNameError(self.kind, name, self._objects)
        return self._objects[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._objects)

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._objects

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for entry in _entry_points(self.group):
            try:
                entry.load()
            except ImportError as error:
                raise UserError(
                    f"cannot load {self.kind}s from '{entry.value}': {error}",
                    help="install the missing package, e.g. pip install 't2tdeploy[train]'",
                ) from error


def _entry_points(group: str) -> Iterator[importlib.metadata.EntryPoint]:
    yield from sorted(importlib.metadata.entry_points(group=group), key=lambda entry: entry.name)


def _origin(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _same_definition(old: Any, new: Any) -> bool:
    """True if `new` is the same source definition as `old`, imported once more."""
    return _origin(old) == _origin(new)


problems: Registry[Any] = Registry("problem", "t2tdeploy.problems")
models: Registry[Any] = Registry("model", "t2tdeploy.models")
hparams_sets: Registry[Any] = Registry("hparams set", "t2tdeploy.hparams")


def register_problem(target: C) -> C:
    """Class decorator: `--problem` finds the class under its name in snake_case."""
    registered: C = problems.register()(target)
    return registered


def register_model(target: C) -> C:
    """Class decorator: `--model` finds the class under its name in snake_case."""
    registered: C = models.register()(target)
    return registered


def register_hparams(target: F) -> F:
    """Function decorator: `--hparams-set` finds the function, which returns the set's HParams."""
    registered: F = hparams_sets.register()(target)
    return registered


def import_usr_dir(directory: Path) -> ModuleType:
    """Imports a user's folder as a package, so that its decorators run (Tensor2Tensor's `--t2t_usr_dir`).

    The folder needs an `__init__.py` that imports its modules, or may be a folder of plain modules: then all
    are imported.

    Raises:
        InputError: the folder is missing, holds no Python file, or fails on import (with the place).
    """
    directory = directory.resolve()
    if not directory.is_dir():
        raise InputError(f"--usr-dir {directory} is not a folder", path=directory, help=help_to_find(directory))
    files = sorted(directory.glob("*.py"))
    if not files:
        raise InputError(
            f"--usr-dir {directory} holds no Python file",
            path=directory,
            help="point it at the folder that holds your problem or model",
        )
    package = f"t2tdeploy_usr_{re.sub(r'[^0-9a-zA-Z_]', '_', directory.name)}"
    init = directory / "__init__.py"
    try:
        return _import_package(package, directory, init if init.exists() else None, files)
    except UserError:
        raise
    except Exception as error:
        file, line = _place(error, directory)
        raise InputError(
            f"--usr-dir {directory}: {type(error).__name__}: {error}",
            path=file,
            line=line,
            help=f"see {file}, line {line}",
        ) from error


def _place(error: Exception, directory: Path) -> tuple[str, int | None]:
    """File and line of the user's code where `error` came up; it may have been raised deeper, in a library."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(directory)]
    frame = (own or frames)[-1]
    return frame.filename, frame.lineno


def _import_package(package: str, directory: Path, init: Path | None, files: list[Path]) -> ModuleType:
    if init is not None:
        spec = importlib.util.spec_from_file_location(package, init, submodule_search_locations=[str(directory)])
    else:
        spec = importlib.util.spec_from_loader(package, loader=None, is_package=True)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations[:] = [str(directory)]
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        del sys.modules[name]  # of an earlier import, maybe from another folder of this name
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    try:
        if init is not None and spec.loader is not None:
            spec.loader.exec_module(module)
        else:
            for file in files:
                importlib.import_module(f"{package}.{file.stem}")
    except BaseException:
        sys.modules.pop(package, None)
        raise
    return module
