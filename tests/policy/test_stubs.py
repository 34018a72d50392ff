"""The committed gRPC stubs are those of protos/."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent.parent


def without_versions(stub: str) -> str:
    """What is left when another release of the generator wrote the same."""
    stub = re.sub(r"# Protobuf Python Version: .*|GRPC_GENERATED_VERSION = .*", "", stub)
    stub = re.sub(r"(ValidateProtobufRuntimeVersion\(\s*\S+\s+)\d+,\s+\d+,\s+\d+,", r"\1", stub)
    return re.sub(r"^(class \w+)\(object\):", r"\1:", stub, flags=re.MULTILINE)


def test_stubs_are_fresh(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    pytest.importorskip("mypy_protobuf", reason="mypy-protobuf is not installed")
    made = runpy.run_path(str(ROOT / "scripts" / "make_protos.py"))["make_protos"](tmp_path)
    assert len(made) >= 4
    for path in made:
        committed = ROOT / path.relative_to(tmp_path)
        assert without_versions(committed.read_text()) == without_versions(path.read_text()), (
            f"{committed.name} is stale: run make protos"
        )


def test_stubs_load_with_the_oldest_versions_that_may_be_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    floors = dict(requirement.split(">=") for requirement in extras["serve"])
    made_by = {"protobuf": set[str](), "grpcio": set[str]()}
    for path in sorted((ROOT / "t2tdeploy" / "serving").rglob("*_pb2*.py")):
        made_by["protobuf"].update(re.findall(r"# Protobuf Python Version: (\S+)", path.read_text()))
        made_by["grpcio"].update(re.findall(r"GRPC_GENERATED_VERSION = '(\S+)'", path.read_text()))
    for package, versions in made_by.items():
        assert {Version(version) for version in versions} == {Version(floors[package])}, package


def test_make_protos_uses_the_tools_that_made_them() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_protos.py"))
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"grpcio-tools==(\d+\.\d+)\.", makefile) == [script["TOOLS_VERSION"]]
