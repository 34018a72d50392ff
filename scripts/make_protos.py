"""Writes the Python stubs of protos/ into the package: python scripts/make_protos.py [--out FOLDER].

The stubs record the versions of protobuf and grpcio that made them, and refuse older ones at import. They are committed
as made by grpcio-tools 1.76, so that protobuf 6.31 and later, 7 included, can load them; the script says so when
another version runs it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.resources
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS_VERSION = "1.76"


def make_protos(out: Path) -> list[Path]:
    """Generates the stubs of every .proto under protos/ into `out`, laid out as packages; returns the files.

    The import paths are right as they come, because protos/ has the folders of the package.
    """
    protos = sorted((ROOT / "protos").rglob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"-I{well_known}"]
    command += [f"--{kind}_out={out}" for kind in ("python", "grpc_python")]
    command += [f"--{kind}_out=quiet:{out}" for kind in ("mypy", "mypy_grpc")]
    beside = str(Path(sys.executable).parent)  # where protoc-gen-mypy is installed
    environment = {**os.environ, "PATH": beside + os.pathsep + os.environ.get("PATH", "")}
    subprocess.run([*command, *map(str, protos)], check=True, env=environment)
    stems = [out / proto.relative_to(ROOT / "protos").with_suffix("") for proto in protos]
    for proto, stem in zip(protos, stems, strict=True):
        if not re.search(r"^package t2tdeploy\.", proto.read_text(encoding="utf-8"), flags=re.MULTILINE):
            keep_apart(stem.with_name(stem.name + "_pb2.py"))
    return [
        stem.with_name(stem.name + ending)
        for stem in stems
        for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
    ]


def keep_apart(stub: Path) -> None:
    """Moves the messages of a package that others also have out of the pool that a process shares with them."""
    text = stub.read_text(encoding="utf-8")
    changes = {
        "_descriptor_pool.Default()": "_descriptors.POOL",
        "_builder.BuildTopDescriptorsAndMessages(": "_descriptors.build_messages(",
        "# @@protoc_insertion_point(imports)": "from t2tdeploy.serving.inference import descriptors as _descriptors\n"
        "# @@protoc_insertion_point(imports)",
    }
    for generated, ours in changes.items():
        if text.count(generated) != 1:
            raise SystemExit(f"{stub}: this version of protoc writes no `{generated}`, which should become `{ours}`")
        text = text.replace(generated, ours)
    stub.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT, help="folder that gets t2tdeploy/serving/v1/*_pb2*.py")
    out = parser.parse_args().out
    version = importlib.metadata.version("grpcio-tools")
    if not version.startswith(TOOLS_VERSION + "."):
        print(f"note: grpcio-tools {version}; the committed stubs are made with {TOOLS_VERSION}.*", file=sys.stderr)
    for path in make_protos(out):
        print(path)


if __name__ == "__main__":
    main()
