"""The layers of ARCHITECTURE.md, read from the imports."""

from __future__ import annotations

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.policy.source import ROOT, imports, modules, room

# Heavy packages: who may import them. A room (cli only inside functions), or one module of a room.
OWNERS = {
    "torch": {"models", "export", "training", "cli"},
    "aiohttp": {"serving"},
    "grpc": {"serving", "load_testing"},
    "grpc_health": {"serving"},
    "grpc_reflection": {"serving"},
    "prometheus_client": {"serving"},
    "opentelemetry": {"serving"},
    "onnxruntime": {"runtime", "export", "training.graph.runner"},
    "onnxruntime_extensions": {"export"},
    "onnx": {"export", "training"},
    "onnxscript": {"export", "training"},
    "pyarrow": {"corpus", "problems"},
    "ray": {"corpus.ray_runner", "serving.ray_app"},
    "matplotlib": {"benchmark", "load_testing", "pictures", "problems", "training"},
    "sacrebleu": {"problems"},
    "safetensors": {"training"},
    "scipy": {"problems"},
    "sentencex": {"documents"},
    "sklearn": {"problems"},
    "tensorrt": {"export", "providers"},
    "tensorrt_rtx": {"export"},
    "click": {"cli"},
    "rich": {"cli"},
}
# What `t2tdeploy --help` may load.
CLI_AT_IMPORT = {"click", "t2tdeploy", *sys.stdlib_module_names}


def layer_table() -> dict[str, int]:
    """Room -> layer, out of the table `L0  errors registry …` of ARCHITECTURE.md."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^L(\d)  +(.+(?:\n {4,}.+)*)", page, flags=re.MULTILINE)
    return {name: int(layer) for layer, names in rows for name in re.findall(r"\w+", names)}


LAYERS = layer_table()


def may_import(importer: str, imported: str) -> bool:
    if importer == imported or imported == "__init__":  # the package itself only holds its version
        return True
    if importer in ("__main__", "__init__"):  # the package names what it offers, for type checkers
        return imported in {"__main__": {"cli"}, "__init__": {"api", "models", "problems", "training"}}[importer]
    lowest = LAYERS[importer] == LAYERS[imported] == 0
    return lowest or LAYERS[imported] < LAYERS[importer]


def test_the_table_is_the_tree() -> None:
    rooms = {room(module) for module in modules()} - {"__init__", "__main__"}
    assert rooms == set(LAYERS)


@pytest.mark.parametrize("module", modules())
def test_imports_point_downward(module: str) -> None:
    own = {found.module for found in imports(module) if found.module.split(".")[0] == "t2tdeploy"}
    wrong = sorted(name for name in own if not may_import(room(module), room(name)))
    assert not wrong, f"{module} imports {wrong}: not in a lower layer"


def test_the_rule_refuses_what_it_should() -> None:
    assert may_import("cli", "training")
    assert may_import("translator", "runtime")
    assert not may_import("problems", "models")
    assert not may_import("serving", "export")
    assert not may_import("training", "cli")
    assert not may_import("bundle", "models")


def test_imports_inside_functions_and_for_types_are_seen() -> None:
    found = {(item.module, item.lazy, item.typing) for item in imports("t2tdeploy.cli.translate")}
    assert ("t2tdeploy.cli.options", False, False) in found
    assert ("t2tdeploy.serving.client", True, False) in found
    assert ("t2tdeploy.translator", False, True) in found


def test_no_circles() -> None:
    graph = {module: {found.module for found in imports(module) if not found.typing} for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", OWNERS)
def test_heavy_packages_stay_in_their_rooms(package: str) -> None:
    importers = {
        module.removeprefix("t2tdeploy.")
        for module in modules()
        for found in imports(module)
        if found.module.split(".")[0] == package
    }
    strangers = {name for name in importers if not {name, room(f"t2tdeploy.{name}")} & OWNERS[package]}
    assert not strangers


@pytest.mark.parametrize("module", [module for module in modules() if room(module) == "cli"])
def test_the_command_line_imports_heavy_things_inside_functions(module: str) -> None:
    at_import = {found.module for found in imports(module) if not (found.lazy or found.typing)}
    assert {name.split(".")[0] for name in at_import} <= CLI_AT_IMPORT
    light = {"cli", "__init__", *(name for name, layer in LAYERS.items() if layer == 0)}
    assert {room(name) for name in at_import if name.split(".")[0] == "t2tdeploy"} <= light


@pytest.mark.parametrize("module", [module for module in modules() if room(module) != "cli"])
def test_only_the_command_line_prints_and_exits(module: str) -> None:
    if module == "t2tdeploy.serving.health":  # a program of its own, for containers
        return
    found = {ast.unparse(node) for node in ast.walk(modules()[module]) if isinstance(node, ast.Name | ast.Attribute)}
    assert not found & {"print", "input", "exit", "quit", "SystemExit"}
    assert not found & {"sys.exit", "sys.stdout", "sys.stderr"}


def test_no_room_hides_what_the_package_offers() -> None:
    """Importing `t2tdeploy.load.anything` would put a module in the place of the function `t2tdeploy.load`."""
    assert not (ROOT / "t2tdeploy" / "load").exists()
    assert not (ROOT / "t2tdeploy" / "load.py").exists()
