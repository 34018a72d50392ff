"""Engines: a search of fixed sizes (export/static_search.py), or a model without one, compiled by TensorRT for one GPU.

`tensorrt` and `tensorrt_rtx` have the same interface, and either will do. Networks are strongly typed: each tensor has
the precision that the graph gives it, so a float16 engine is built from the float16 graph (export/half.py).

An engine belongs to the GPU and the version of TensorRT that it was built with. It is built on the machine that is to
run it, once, and kept in a folder under the hash of all that it depends on. Building runs in a process of its own:
some graphs end the parser's process instead of being refused.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from t2tdeploy.errors import CorruptFileError, InputError, OperationalError, RequestError
from t2tdeploy.export.tensorrt_operators import require_supported
from t2tdeploy.files import atomic_file, sha256_of, write_json
from t2tdeploy.tensorrt_engines import (
    AnyProfile,
    InputsProfile,
    Platform,
    Profile,
    Span,
    engine_key,
    provider_options,
    this_platform,
)

__all__ = [
    "Engine",
    "InputsProfile",
    "Platform",
    "Profile",
    "Span",
    "build_engine",
    "profile_of",
    "provider_options",
]

BUILD_SECONDS = 3600.0
LOG_LINES = 12
"""Of the builder's output, that an error shows."""


def profile_of(graph: onnx.ModelProto, **axes: Span) -> InputsProfile:
    """The profile of a graph whose axes have names, as those of models that classify or regress have.

        profile_of(onnx.load("mood/model.onnx"), batch=Span(1, 8, 64), source_length=Span(1, 24, 256))

    Raises:
        RequestError: the graph has an axis that is not given, or not one that is.
    """
    inputs = {one.name: one.type.tensor_type.shape.dim for one in graph.graph.input}
    named = dict.fromkeys(axis.dim_param for dims in inputs.values() for axis in dims if not axis.HasField("dim_value"))
    if named.keys() != axes.keys():
        raise RequestError(
            "profile",
            f"{', '.join(axes) or 'no axis'} given; the graph has {', '.join(named)}",
            help="give a Span for each axis of the graph that has a name",
        )
    return InputsProfile(
        {
            name: tuple(axis.dim_value if axis.HasField("dim_value") else axes[axis.dim_param] for axis in dims)
            for name, dims in inputs.items()
        }
    )


@dataclass(frozen=True)
class Engine:
    """A built engine on disk.

    Args:
        path: what TensorRT's Runtime.deserialize_cuda_engine reads.
        platform: what it runs on.
        built: False: it was there already.
    """

    path: Path
    platform: Platform
    profile: AnyProfile
    built: bool


def build_engine(graph: Path, folder: Path, profile: AnyProfile, *, seconds: float = BUILD_SECONDS) -> Engine:
    """The engine of `graph` for this machine: built, or found in `folder` where an earlier call put it.

    A variant that a bundle has for TensorRT is the graph; its engine is built where it is served. Ready is who has the
    engine and has run it once.

    Args:
        graph: an ONNX file: a search of export/static_search.py, or of a model that classifies or regresses.
        folder: of engines; made if it is not there. Each has a KEY.json beside it that says what it is.
        seconds: after which the build is given up.

    Raises:
        InputError: there is no such file, or the graph has operators that TensorRT does not have, which are named.
        CorruptFileError: it is no ONNX file.
        OperationalError: TensorRT is not installed, refused the graph, crashed or took too long; the message ends with
            the last lines that it wrote.
    """
    if not graph.is_file():
        raise InputError(
            f"{graph} is not a file",
            path=graph,
            help="give a graph that export_variant made, or the model.onnx of a bundle that classifies",
        )
    platform = this_platform()
    digest = sha256_of(graph)
    path = folder / f"{engine_key(digest, platform, profile)}.engine"
    if path.is_file():
        return Engine(path, platform, profile, built=False)
    try:
        model = onnx.load(graph)
    except Exception as error:  # protobuf's DecodeError, whose module depends on its version
        raise CorruptFileError(graph, f"not an ONNX file ({error})", help="export it again") from error
    require_supported(model)
    try:
        with atomic_file(path) as temporary:
            _build(platform, graph, temporary, profile, _timing_cache(folder, platform), seconds)
        write_json(path.with_suffix(".json"), {"graph": digest, **asdict(platform), "profile": asdict(profile)})
    except OSError as error:
        raise OperationalError(f"cannot write the engine {path}: {error}") from error
    return Engine(path, platform, profile, built=True)


def _timing_cache(folder: Path, platform: Platform) -> Path:
    """Measured kernels, which all engines of a platform share: it makes the second build faster."""
    name = hashlib.sha256(json.dumps(asdict(platform), sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"timing-{name}.cache"


def _build(
    platform: Platform, graph: Path, engine: Path, profile: AnyProfile, timing_cache: Path, seconds: float
) -> None:
    """Runs export/tensorrt_builder.py."""
    request = {
        "library": platform.library,
        "graph": str(graph),
        "engine": str(engine),
        "timing_cache": str(timing_cache),
        "shapes": profile.shapes(),
    }
    command = [sys.executable, "-m", "t2tdeploy.export.tensorrt_builder", json.dumps(request)]
    with tempfile.TemporaryFile() as log:
        try:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise OperationalError(
                f"TensorRT did not build {graph} within {seconds:g} s{_tail(log)}",
                help="give it more time, or a profile with a smaller largest batch and source length",
            ) from None
        if done.returncode or not engine.is_file():
            raise OperationalError(
                f"TensorRT ({platform.library} {platform.version}) did not build {graph}: "
                f"{_how_it_ended(done.returncode)}{_tail(log)}",
                help=None if platform.gpu else "there is no GPU here, without which only tensorrt-rtx builds",
            )


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"its process died by {signal.Signals(-status).name}"
    return f"exit status {status}" if status else "it refused the graph"


def _tail(log: Any) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
    return "".join(f"\n  {line}" for line in lines)
