"""The key of a training graph: a hash of all that the graph follows from, and of nothing else.

What decides a graph is code (ours, the model's, that of the exporters), the model's structure and settings, and the
options of the build. Values of parameters and buffers are inputs of the graph; so they, like paths and times, are not
part of the key.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import json
import platform
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

import t2tdeploy
from t2tdeploy.features import FeatureSpec
from t2tdeploy.hparams import HParams
from t2tdeploy.training.graph.description import Description, digest, file_of, library_file

_EXPORTERS = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime-training", "onnxruntime-training-cpu")
_OUR_FILES = (
    *("models/**/*.py", "training/graph/**/*.py", "training/precision.py"),
    *("export/exact_constants.py", "export/mistranslated.py", "export/naming.py", "export/quick.py"),
    *("export/undecomposed.py", "export/vectors.py"),
)
# Recipe fields of HParams that no graph contains: to try another learning rate, none is built anew.
_OUTSIDE_THE_GRAPH = frozenset(
    {"batch_size", "train_steps", "accumulate_steps", "weight_decay", "clip_grad_norm", "compile"}
    | {"beam_size", "alpha", "extra_length"}
    | {name for name in HParams.model_fields if name.startswith(("optimizer", "learning_rate_"))}
)


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
    Of the user's classes and functions, what a factory or a command line may have chosen counts as well: class
    attributes, byte code, closures, defaults, and the global variables that the code reads.
    The key of a class typed at a prompt, whose source nobody has, is another one each time.

    Args:
        builder: name of the gradient builder.
        model: what is differentiated.
        hparams: all fields count but those of the optimizer, the schedule, the batches and the search.
        features: of the problem.
        options: precision, device, opset …: whatever else the build depends on.
    """
    description = Description()
    content = {
        "builder": builder,
        "model": description.model(model),
        "hparams": {name: description.of(value) for name, value in hparams if name not in _OUTSIDE_THE_GRAPH},
        "features": [[name, description.of(spec)] for name, spec in features.items()],
        "options": {name: description.of(value) for name, value in options.items()},
        "versions": _versions(),
        "sources": _our_sources() | _sources(description.code),
    }
    return digest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


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
    return {file.relative_to(root).as_posix(): digest(file.read_bytes()) for file in files}


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
        file = file_of(name)
        if library := library_file(package):
            if package not in found:
                found[package] = _version(package) or digest(library.read_bytes())
        elif file is not None:
            content = file.read_bytes()
            found[name] = digest(content)
            waiting += _imports(content, name) if file.suffix == ".py" else []
        elif not hasattr(sys.modules.get(name), "__path__"):  # a package without a file holds no code of its own
            found[name] = secrets.token_hex()
    return found


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
