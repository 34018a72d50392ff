"""Engines: a search of fixed sizes (export/static_search.py), or a model without one, compiled by TensorRT for one GPU.

`tensorrt` and `tensorrt_rtx` have the same interface, and either will do. Networks are strongly typed: each tensor has
the precision that the graph gives it, so a float16 engine is built from the float16 graph (export/half.py).

An engine belongs to the GPU and the version of TensorRT that it was built with. It is built on the machine that is to
run it, once, and kept in a folder under the hash of all that it depends on. Building runs in a process of its own:
some graphs end the parser's process instead of being refused.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.metadata
import importlib.util
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

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""Modules, the first that is installed is taken."""
BUILD_SECONDS = 3600.0
LOG_LINES = 12
"""Of the builder's output, that an error shows."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Span:
    """Sizes of an axis: the smallest and the largest that an engine takes, and the one that it is tuned for.

    Raises:
        RequestError: they are not in order.
    """

    smallest: int
    usual: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.usual <= self.largest:
            raise RequestError(
                "profile",
                f"{self.smallest}, {self.usual}, {self.largest}: an axis needs 1 ≤ smallest ≤ usual ≤ largest",
                help="the usual size is the one that the engine is tuned for, e.g. 1, 8, 32",
            )


@dataclass(frozen=True)
class InputsProfile:
    """What an engine is built for: TensorRT's optimization profile of any graph; `profile_of` makes it.

    Args:
        inputs: name -> axes, those that do not change as their size.
    """

    inputs: dict[str, tuple[Span | int, ...]]

    def shapes(self) -> dict[str, Shapes]:
        """`min`, `opt` and `max` -> input -> shape."""
        sizes = {"min": "smallest", "opt": "usual", "max": "largest"}
        return {
            kind: {
                name: tuple(axis if isinstance(axis, int) else getattr(axis, size) for axis in axes)
                for name, axes in self.inputs.items()
            }
            for kind, size in sizes.items()
        }


@dataclass(frozen=True)
class Profile:
    """That of a search.

    Args:
        batch: sentences.
        source_length: tokens of the longest, EOS and padding included.
    """

    batch: Span
    source_length: Span

    def shapes(self) -> dict[str, Shapes]:
        """As `InputsProfile.shapes`."""
        return InputsProfile({"source_ids": (self.batch, self.source_length), "max_length": (self.batch,)}).shapes()


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


AnyProfile = Profile | InputsProfile


@dataclass(frozen=True)
class Platform:
    """What an engine is bound to, besides its graph.

    Args:
        library: a module of `LIBRARIES`.
        version: of it.
        gpu: its name; None: there is none, and `tensorrt_rtx` builds for the GPUs that it knows.
    """

    library: str
    version: str
    gpu: str | None


def this_platform() -> Platform:
    """That of this machine.

    Raises:
        OperationalError: TensorRT is not installed.
    """
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is not None:
            return Platform(library, _version(library), gpu_name())
    raise OperationalError(
        "neither tensorrt nor tensorrt_rtx is installed",
        help="install one: pip install 't2tdeploy[tensorrt]' brings tensorrt-rtx, for GPUs of the RTX family; "
        "for those of data centres: pip install tensorrt",
    )


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # not installed by pip
        version: str = importlib.import_module(library).__version__
        return version


def gpu_name(driver: str = "libcuda.so.1") -> str | None:
    """The first GPU's name and compute capability, "NVIDIA H100 80GB HBM3 (9.0)"; None if there is none.

    Args:
        driver: CUDA's library.
    """
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return None
    name, major, minor, device = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceComputeCapability(ctypes.byref(major), ctypes.byref(minor), device)
    )
    return None if failed else f"{name.value.decode()} ({major.value}.{minor.value})"


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


def engine_key(digest: str, platform: Platform, profile: AnyProfile) -> str:
    """Twenty hexadecimal digits that differ where engines do.

    Args:
        digest: SHA-256 of the graph's file.
    """
    content = json.dumps([digest, asdict(platform), asdict(profile)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


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


def provider_options(graph: Path, folder: Path, profile: AnyProfile) -> dict[str, str]:
    """Options of onnxruntime's TensorrtExecutionProvider that build the same engine inside a session.

        providers = [("TensorrtExecutionProvider", provider_options(graph, folder, profile)), "CUDAExecutionProvider"]

    The engine and a context model (EPContext) that names it, NAME_ctx.onnx, are kept in the folder that
    `trt_ep_context_file_path` names, which is made: one inside `folder` for each graph, platform and profile. A session
    of the context model builds nothing. onnxruntime wants the engine's path inside that folder, and relative to it.
    Types are those of the graph: the provider's own float16 switch, which converts whatever it likes, stays off.

    Raises:
        OperationalError: TensorRT is not installed; onnxruntime-gpu needs the version that it was built with.
    """
    own = folder / f"onnxruntime-{engine_key(sha256_of(graph), this_platform(), profile)}"
    own.mkdir(parents=True, exist_ok=True)
    profiles = {
        f"trt_profile_{kind}_shapes": ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
        for kind, shapes in profile.shapes().items()
    }
    return {
        **profiles,
        "trt_fp16_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": ".",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(own),
        "trt_dump_ep_context_model": "1",
        "trt_ep_context_file_path": str(own),
        "trt_ep_context_embed_mode": "0",
    }
