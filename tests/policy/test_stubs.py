"""The committed gRPC stubs are those of protos/."""

import re
import runpy
from pathlib import Path

import pytest

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
