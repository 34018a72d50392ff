"""What a model keeps, in words that are the same in every process: the model's own part of the key of its graph."""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import hashlib
import json
import logging
import secrets
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GENERATED = "__generated__"
"""Attribute of classes that are made of what a user gives: they are described, whatever module they say they are of."""

_EVERY_MODULE_HAS = frozenset(nn.Module().__dict__)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_LIBRARIES = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")})
_PACKAGES = frozenset(("site-packages", "dist-packages"))  # wherever pip or a distribution put them
_METHODS = (FunctionType, staticmethod, classmethod, property)

logger = logging.getLogger("t2tdeploy")


class Description:
    """Turns what a model keeps into JSON that is the same in every process.

    Attributes:
        code: names of the Python modules whose classes and functions were met.
    """

    def __init__(self) -> None:
        self.code: set[str] = set()
        self._open: dict[int, int] = {}  # ids of the objects being described, which may contain themselves -> depth
        self._known: dict[int, tuple[Any, str]] = {}  # id -> the object, which so keeps its id, and its digest

    def model(self, model: nn.Module) -> Any:
        """`structure`, or what no other model has if it cannot be described: objects lie in each other too deeply, or
        cannot be looked at."""
        try:
            return self.structure(model)
        except Exception as error:  # of whatever a model keeps
            logger.info("the model's training graph is built anew each time: %s: %s", type(error).__name__, error)
            return secrets.token_hex()

    def structure(self, model: nn.Module) -> list[Any]:
        """Modules, parameters and buffers with their names; a shared one has several."""
        first: dict[int, str] = {}
        return [
            [
                [name, first.setdefault(id(module), name), *self._module(module)]
                for name, module in model.named_modules(remove_duplicate=False)
            ],
            [
                [name, first.setdefault(id(tensor), name), *_kind(tensor), tensor.requires_grad]
                for named in (model.named_parameters, model.named_buffers)
                for name, tensor in named(remove_duplicate=False)
            ],
        ]

    def of(self, value: Any) -> Any:
        """JSON for any value."""
        match value:
            case None | bool() | int() | str() if not isinstance(value, enum.Enum):
                return value
            case float() | complex() | range() | slice() | torch.dtype() | torch.device():
                return [type(value).__name__, repr(value)]
            case np.generic() if not value.dtype.hasobject:
                return ["array", str(value.dtype), digest(value.tobytes())]
            case nn.Parameter():
                return ["parameter", *_kind(value)]
            case types.GetSetDescriptorType() | types.MemberDescriptorType() | types.WrapperDescriptorType():
                return ["descriptor", *self._name(value.__objclass__), value.__name__]
            case types.MethodDescriptorType() | types.ClassMethodDescriptorType():
                return ["descriptor", *self._name(value.__objclass__), value.__name__]
            case torch._ops.OpOverload() | torch._ops.OpOverloadPacket():
                return ["operator", str(value)]
            case PurePath():
                return "path"
            case bytes():
                return ["bytes", digest(value)]
            case ModuleType():
                self.code.add(value.__name__)
                return ["import", value.__name__]
            case enum.Enum():
                return [*self._name(type(value)), value.name]
            case logging.Logger():
                return ["logger", value.name]
        return self._guarded(value)

    def _guarded(self, value: Any) -> Any:
        """A digest, made once: what many objects share would be written out as often as there are ways to it."""
        if id(value) in self._open:
            return ["itself", len(self._open) - self._open[id(value)]]
        if id(value) not in self._known:
            self._open[id(value)] = len(self._open)
            try:
                content = json.dumps(self._compound(value), sort_keys=True)
            finally:
                del self._open[id(value)]
            self._known[id(value)] = value, digest(content.encode())
        return self._known[id(value)][1]

    def _compound(self, value: Any) -> Any:
        match value:
            case np.ndarray() if not value.dtype.hasobject:
                return ["array", str(value.dtype), list(value.shape), digest(np.ascontiguousarray(value).tobytes())]
            case np.ndarray():
                return ["array", str(value.dtype), list(value.shape), self.of(value.tolist())]
            case Tensor():
                return ["tensor", *_kind(value), digest(_bytes(value))]
            case type():
                return self._class(value)
            case FunctionType():
                return self._function(value)
            case CodeType():
                return self._code(value)
            case MethodType():
                return [self.of(value.__func__), self.of(value.__self__)]
            case staticmethod() | classmethod():
                return [type(value).__name__, self.of(value.__func__)]
            case property():
                return ["property", self.of(value.fget), self.of(value.fset)]
            case functools.partial():
                return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
            case nn.Module():
                return self.structure(value)
            case Mapping():
                items = [[self.of(key), self.of(item)] for key, item in value.items()]
                return [self.of(type(value)), items, self._beside(value)]
            case list() | tuple() | deque():
                return [self.of(type(value)), [self.of(item) for item in value], self._beside(value)]
            case AbstractSet():
                return [self.of(type(value)), sorted(json.dumps(self.of(item)) for item in value), self._beside(value)]
        return [self.of(type(value)), self._content(value)]

    def _beside(self, value: Any) -> list[Any]:
        """What a container keeps besides its items."""
        return [self.of(getattr(value, name, None)) for name in ("__dict__", "default_factory", "maxlen")]

    def _content(self, value: Any) -> Any:
        # The names are for functions of extensions, which have nothing else.
        known_as = [getattr(value, name, None) for name in ("__qualname__", "__name__", "__self__")]
        kept = getattr(value, "__dict__", None)
        named = callable(value) and any(isinstance(name, str) for name in known_as)
        if kept is not None or named or _holds_nothing(value):
            return [self.of(known_as), self.of(kept), [[name, self.of(one)] for name, one in _slots(value)]]
        try:
            reduce = copyreg.dispatch_table.get(type(value))  # as pickle does it
            return self.of(reduce(value) if reduce else value.__reduce_ex__(2))
        except RecursionError:
            raise
        except Exception:  # whatever a class's own pickling may raise
            return secrets.token_hex()  # rather another key than the key of another model

    def _class(self, cls: type) -> Any:
        """Its name; of the user's also what is defined in it and above it, as a factory may have chosen that."""
        is_known_by_name = not _is_users(cls.__module__ or "") or issubclass(cls, enum.Enum)
        if is_known_by_name and GENERATED not in vars(cls):
            return self._name(cls)
        defined = [[name, self.of(value)] for name, value in vars(cls).items() if _is_content(name, value)]
        return [self._name(cls), defined, [self.of(base) for base in cls.__bases__]]

    def _function(self, function: FunctionType) -> Any:
        closure = [_cell_content(cell) for cell in function.__closure__ or ()]
        values = [function.__defaults__, function.__kwdefaults__, closure]
        found = [function.__module__, function.__qualname__]
        found += [self.of(value) for value in (function.__code__, *values)]
        home = function.__globals__.get("__name__") or ""  # the function may say it is of another, which it wraps
        # Made by exec it is of no module that is loaded, as those of named tuples are: its code has to do.
        self.code |= {function.__module__, home} & sys.modules.keys()
        if _is_users(home):
            kept = {name: value for name, value in vars(function).items() if not name.startswith("_")}
            loaded, named = _names(function.__code__)
            found += [self.of(kept), self._globals(function.__globals__, loaded, named, set())]
        return found

    def _globals(
        self, variables: Mapping[str, Any], names: AbstractSet[str], inside: AbstractSet[str], seen: set[str]
    ) -> Any:
        """Those of `names` that are variables of a Python module; `inside` of the user's modules that are among these,
        and of theirs, but for those that were `seen`."""
        found = []
        for name in sorted(names & variables.keys()):
            value = variables[name]
            found.append([name, self.of(value)])
            if isinstance(value, ModuleType) and _is_users(value.__name__) and value.__name__ not in seen:
                seen.add(value.__name__)
                found.append(self._globals(vars(value), inside, inside, seen))
        return found

    def _code(self, code: CodeType) -> Any:
        """What it does, and not where it stands: a function that is moved stays the same."""
        shape = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
        names = [list(code.co_names), list(code.co_varnames), list(code.co_freevars), list(code.co_cellvars)]
        return [shape, names, digest(code.co_code), [self.of(value) for value in code.co_consts]]

    def _module(self, module: nn.Module) -> list[Any]:
        for cls in type(module).__mro__:
            self.code.add(cls.__module__)
        kept = {name: value for name, value in vars(module).items() if name not in _EVERY_MODULE_HAS}
        hooks = [self.of(list(vars(module)[name].values())) for name in _HOOKS]
        return [self.of(type(module)), module.training, self.of(kept), hooks]

    def _name(self, definition: Any) -> list[str]:
        module = definition.__module__ or ""  # None for what was made by exec
        self.code.add(module)
        return [module, definition.__qualname__]


def _is_content(name: str, value: Any) -> bool:
    """Whether a class attribute is the user's, not Python's bookkeeping, such as line numbers."""
    bookkeeping = name in ("_abc_impl", "__annotate__", "__annotate_func__") or name.startswith("__pydantic")
    return not bookkeeping and (isinstance(value, _METHODS) or not (name.startswith("__") and name.endswith("__")))


def _holds_nothing(value: Any) -> bool:
    return type(value).__module__ in ("_thread", "weakref", "_weakref")


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Of the global variables that it reads, and all that it names: attributes, too."""
    loaded = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    named = {*code.co_names}
    for nested in code.co_consts:
        if isinstance(nested, CodeType):
            inner = _names(nested)
            loaded |= inner[0]
            named |= inner[1]
    return frozenset(loaded), frozenset(named)


def _slots(value: Any) -> list[tuple[str, Any]]:
    """What an object keeps in slots, by their names."""
    found = []
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            own = f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
            if name not in ("__dict__", "__weakref__"):
                found.append((name, getattr(value, own, None)))
    return found


@functools.lru_cache(maxsize=4096)
def _is_users(module: str) -> bool:
    """Whether a Python module may be another one without another version, and is not hashed as ours is."""
    package = module.split(".")[0]
    if module == "__main__":
        return True
    return package not in sys.stdlib_module_names and package != "t2tdeploy" and library_file(package) is None


def file_of(module: str) -> Path | None:
    """Where a loaded Python module is from, if that is a file."""
    path = getattr(sys.modules.get(module), "__file__", None)
    return Path(path) if path and Path(path).is_file() else None


def library_file(package: str) -> Path | None:
    """The main file of an installed package; None for code of the user, which changes without a new version."""
    file = file_of(package)
    if file is None:
        return None
    place = file.resolve()
    inside = not _PACKAGES.isdisjoint(place.parts) or any(place.is_relative_to(folder) for folder in _LIBRARIES)
    return file if inside else None


def digest(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _kind(tensor: Tensor) -> list[Any]:
    return [list(tensor.shape), str(tensor.dtype)]


def _bytes(tensor: Tensor) -> bytes:
    if tensor.is_meta:
        return b""
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    content: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return content


def _cell_content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return None
