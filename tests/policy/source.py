"""The package's source as the policy tests read it: modules, what each imports, and where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {ROOT / "t2tdeploy" / "serving" / "v1", ROOT / "t2tdeploy" / "serving" / "inference" / "v2"}


@dataclass(frozen=True)
class Import:
    """One imported module.

    Args:
        lazy: inside a function, so not run when the module is imported.
        typing: under `if TYPE_CHECKING:`, so never run.
    """

    module: str
    lazy: bool
    typing: bool


def python_files(*folders: str) -> list[Path]:
    """All Python files under `folders` of the checkout, but generated ones."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not GENERATED & set(path.parents)]


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree, for every module of the package but generated ones."""
    return {_dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in python_files("t2tdeploy")}


@cache
def imports(module: str) -> frozenset[Import]:
    """What `module` imports; of the package itself, the modules that are meant, not the packages around them."""
    return frozenset(_imports(modules()[module], lazy=False, typing=False))


def room(module: str) -> str:
    """`t2tdeploy.serving.client` -> `serving`; `t2tdeploy` itself is the room `__init__`."""
    return module.partition(".")[2].partition(".")[0] or "__init__"


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(node: ast.AST, *, lazy: bool, typing: bool) -> Iterator[Import]:
    match node:
        case ast.Import():
            yield from (Import(name.name, lazy, typing) for name in node.names)
        case ast.ImportFrom():
            assert node.level == 0, f"relative import of {node.module}: the package uses absolute ones"
            yield from (Import(name, lazy, typing) for name in _from(node))
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            for child in node.body:
                yield from _imports(child, lazy=lazy, typing=True)
            for child in node.orelse:
                yield from _imports(child, lazy=lazy, typing=typing)
        case _:
            inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from _imports(child, lazy=inside, typing=typing)


def _from(node: ast.ImportFrom) -> set[str]:
    """`from t2tdeploy.cli import options` means the module t2tdeploy.cli.options, if there is one."""
    module = node.module or ""
    return {f"{module}.{name.name}" if f"{module}.{name.name}" in _names() else module for name in node.names}


@cache
def _names() -> frozenset[str]:
    return frozenset(_dotted(path) for path in (ROOT / "t2tdeploy").rglob("*.py"))
