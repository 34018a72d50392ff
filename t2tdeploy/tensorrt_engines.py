"""Engines of TensorRT: the sizes that one takes, what it is bound to, and how onnxruntime gets one.

`tensorrt` and `tensorrt_rtx` have the same interface; export/tensorrt.py builds with either. onnxruntime runs those of
`tensorrt` only, and builds them itself, as one of its sessions is made.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from t2tdeploy.errors import OperationalError, RequestError
from t2tdeploy.files import cache_directory, sha256_of

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""Modules, the first that is installed is taken."""

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

    @classmethod
    def read(cls, recorded: Mapping[str, tuple[tuple[int, int, int] | int, ...]] | None) -> InputsProfile | None:
        """The profile that a manifest has of a variant, see `recorded`; None: it has none."""
        if recorded is None:
            return None
        return cls(
            {
                name: tuple(axis if isinstance(axis, int) else Span(*axis) for axis in axes)
                for name, axes in recorded.items()
            }
        )

    def recorded(self) -> dict[str, tuple[tuple[int, int, int] | int, ...]]:
        """As a manifest has it: input -> its axes, as (smallest, usual, largest) or the only size."""
        return {
            name: tuple(axis if isinstance(axis, int) else astuple(axis) for axis in axes)
            for name, axes in self.inputs.items()
        }

    @property
    def largest_batch(self) -> int:
        """Rows: batch is the first axis of every input."""
        first = next(iter(self.inputs.values()))[0]
        return first if isinstance(first, int) else first.largest

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
        return self.inputs_profile().shapes()

    def inputs_profile(self) -> InputsProfile:
        """The same by inputs."""
        return InputsProfile({"source_ids": (self.batch, self.source_length), "max_length": (self.batch,)})


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


def is_installed(library: str) -> bool:
    """Whether the package is here; a folder of that name where Python was started is none."""
    spec = importlib.util.find_spec(library)
    return spec is not None and spec.origin is not None


def this_platform() -> Platform:
    """That of this machine.

    Raises:
        OperationalError: TensorRT is not installed.
    """
    for library in LIBRARIES:
        if is_installed(library):
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


def engine_key(digest: str, platform: Platform, profile: AnyProfile) -> str:
    """Twenty hexadecimal digits that differ where engines do.

    Args:
        digest: SHA-256 of the graph's file.
    """
    content = json.dumps([digest, asdict(platform), asdict(profile)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def engines_directory() -> Path:
    """Where engines are kept: `engines` in `files.cache_directory`."""
    return cache_directory("engines")


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
