"""The key of a training graph: a hash of all that the graph follows from, and of nothing else.

What decides a graph is code (ours, the model's, that of the exporters), the model's structure and settings, and the
options of the build. Values of parameters and buffers are inputs of the graph; so they, like paths and times, are not
part of the key.
"""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import secrets
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import t2tdeploy
from t2tdeploy.features import FeatureSpec
from t2tdeploy.hparams import HParams

_EXPORTERS = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime-training", "onnxruntime-training-cpu")
_OUR_FILES = (
    *("models/**/*.py", "training/graph/**/*.py", "training/precision.py"),
    *("export/undecomposed.py", "export/naming.py", "export/quick.py"),
)
# Recipe fields of HParams that no graph contains: to try another learning rate, none is built anew.
_OUTSIDE_THE_GRAPH = frozenset(
    {"batch_size", "train_steps", "accumulate_steps", "weight_decay", "clip_grad_norm", "compile"}
    | {"beam_size", "alpha", "extra_length"}
    | {name for name in HParams.model_fields if name.startswith(("optimizer", "learning_rate_"))}
)
_EVERY_MODULE_HAS = frozenset(nn.Module().__dict__)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_LIBRARIES = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")})


def graph_key(
    *,
    builder: str,
    model: nn.Module,
    hparams: HParams,
    features: Mapping[str, FeatureSpec],
    options: Mapping[str, Any],
) -> str:
    """SHA-256, hexadecimal, of what decides the training graph of `model`.

    Part of it are: the versions of the exporters; the source files of every module's class, of functions that modules
    keep, and of what these files import, libraries by their version; names, shapes and dtypes of parameters and
    buffers; and what else a module keeps, so that a setting that a module remembers counts wherever it came from.
    The key of a class typed at a prompt, whose source nobody has, is another one each time.

    Args:
        builder: name of the gradient builder.
        model: what is differentiated.
        hparams: all fields count but those of the optimizer, the schedule, the batches and the search.
        features: of the problem.
        options: precision, device, opset …: whatever else the build depends on.
    """
    description = _Description()
    content = {
        "builder": builder,
        "model": description.structure(model),
        "hparams": {name: description.of(value) for name, value in hparams if name not in _OUTSIDE_THE_GRAPH},
        "features": [[name, description.of(spec)] for name, spec in features.items()],
        "options": {name: description.of(value) for name, value in options.items()},
        "versions": _versions(),
        "sources": _our_sources() | _sources(description.code),
    }
    return _digest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


class _Description:
    """Turns what a model keeps into JSON that is the same in every process.

    Attributes:
        code: names of the Python modules whose classes and functions were met.
    """

    def __init__(self) -> None:
        self.code: set[str] = set()
        self._open: set[int] = set()  # ids of the objects being described, which may contain themselves

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
            case np.generic() | np.ndarray():
                return ["array", str(value.dtype), list(value.shape), _digest(np.ascontiguousarray(value).tobytes())]
            case nn.Parameter():
                return ["parameter", *_kind(value)]
            case Tensor():
                return ["tensor", *_kind(value), _digest(_bytes(value))]
            case torch._ops.OpOverload() | torch._ops.OpOverloadPacket():
                return ["operator", str(value)]
            case PurePath():
                return "path"
            case bytes():
                return ["bytes", _digest(value)]
            case ModuleType():
                self.code.add(value.__name__)
                return ["import", value.__name__]
            case enum.Enum():
                return [*self._name(type(value)), value.name]
        return self._guarded(value)

    def _guarded(self, value: Any) -> Any:
        if id(value) in self._open:
            return "itself"
        self._open.add(id(value))
        try:
            return self._compound(value)
        finally:
            self._open.remove(id(value))

    def _compound(self, value: Any) -> Any:
        match value:
            case type():
                return self._name(value)
            case FunctionType():
                closure = [_content(cell) for cell in value.__closure__ or ()]
                return [
                    *self._name(value),
                    self.of(value.__defaults__),
                    self.of(value.__kwdefaults__),
                    self.of(closure),
                ]
            case MethodType():
                return [self.of(value.__func__), self.of(value.__self__)]
            case functools.partial():
                return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
            case nn.Module():
                return self.structure(value)
            case Mapping():
                return [*self._name(type(value)), [[self.of(key), self.of(item)] for key, item in value.items()]]
            case list() | tuple():
                return [*self._name(type(value)), [self.of(item) for item in value]]
            case AbstractSet():
                return [*self._name(type(value)), sorted(json.dumps(self.of(item)) for item in value)]
        # The names are for functions of extensions, which have nothing else.
        known_as = [getattr(value, name, None) for name in ("__qualname__", "__name__", "__self__")]
        return [*self._name(type(value)), self.of(known_as), self.of(getattr(value, "__dict__", None))]

    def _module(self, module: nn.Module) -> list[Any]:
        for cls in type(module).__mro__:
            self.code.add(cls.__module__)
        kept = {name: value for name, value in vars(module).items() if name not in _EVERY_MODULE_HAS}
        hooks = [self.of(list(vars(module)[name].values())) for name in _HOOKS]
        return [*self._name(type(module)), module.training, self.of(kept), hooks]

    def _name(self, definition: Any) -> list[str]:
        module = definition.__module__ or ""  # None for what was made by exec
        self.code.add(module)
        return [module, definition.__qualname__]


def _kind(tensor: Tensor) -> list[Any]:
    return [list(tensor.shape), str(tensor.dtype)]


def _bytes(tensor: Tensor) -> bytes:
    if tensor.is_meta:
        return b""
    content: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return content


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return None


def _versions() -> dict[str, str | None]:
    found = {name: _version(name) for name in _EXPORTERS}
    return {**found, "t2tdeploy": t2tdeploy.__version__, "python": ".".join(platform.python_version_tuple()[:2])}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _our_sources() -> dict[str, str]:
    """The code that makes graphs, and the parts that models are made of."""
    root = Path(t2tdeploy.__file__).parent
    files = (file for pattern in _OUR_FILES for file in sorted(root.glob(pattern)))
    return {file.relative_to(root).as_posix(): _digest(file.read_bytes()) for file in files}


def _sources(names: Iterable[str]) -> dict[str, str]:
    """Python module -> hash of its file, for `names` and what they import; libraries: package -> version."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = sorted(names)
    while waiting:
        name = waiting.pop()
        package = name.split(".")[0]
        if name in seen or (package in sys.stdlib_module_names and name != "__main__"):
            continue
        seen.add(name)
        file = _file(name)
        if library := _library_file(package):
            if package not in found:
                found[package] = _version(package) or _digest(library.read_bytes())
        elif file is not None:
            content = file.read_bytes()
            found[name] = _digest(content)
            waiting += _imports(content, name) if file.suffix == ".py" else []
        elif not hasattr(sys.modules.get(name), "__path__"):  # a package without a file holds no code of its own
            found[name] = secrets.token_hex()
    return found


def _file(name: str) -> Path | None:
    path = getattr(sys.modules.get(name), "__file__", None)
    return Path(path) if path and Path(path).is_file() else None


def _library_file(package: str) -> Path | None:
    """The main file of an installed package; None for code of the user, which changes without a new version."""
    file = _file(package)
    inside = file is not None and any(file.resolve().is_relative_to(folder) for folder in _LIBRARIES)
    return file if inside else None


def _imports(source: bytes, name: str) -> list[str]:
    """The modules, among those loaded, that the source file of module `name` names in its imports."""
    package = getattr(sys.modules.get(name), "__package__", None) or ""
    return sorted(_named_imports(source, package) & sys.modules.keys())


@functools.lru_cache(maxsize=4096)  # to parse a package takes most of the time that a key does
def _named_imports(source: bytes, package: str) -> frozenset[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # of another version of Python
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
