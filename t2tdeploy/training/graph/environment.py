"""Which build of ONNX Runtime this environment has, and what it can do: gradients, devices."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from typing import Any

import onnx
from onnx import TensorProto, helper

from t2tdeploy.errors import OperationalError, UnknownNameError, UserError
from t2tdeploy.runtime import import_onnxruntime
from t2tdeploy.training.graph.target import Target

PORTABLE = "portable"
ONNXRUNTIME_TRAINING = "onnxruntime-training"
GRADIENT_BUILDERS = (PORTABLE, ONNXRUNTIME_TRAINING)

# Distributions that install the module `onnxruntime`. Each writes over the files of the others.
_BUILDS = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-training", "onnxruntime-training-cpu", "onnxruntime-directml",
    "onnxruntime-openvino", "onnxruntime-qnn", "onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-cann",
)  # fmt: skip
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TRAINING_HELP = (
    "it needs an environment of its own (Python 3.11 or 3.12): "
    "pip install -c constraints-ort-training.txt 't2tdeploy[ort-training]'; "
    f"or leave the choice to the program: --gradient-builder auto, which here is {PORTABLE}"
)


def onnxruntime_build() -> str:
    """The installed build of ONNX Runtime and its version, as pip writes it: onnxruntime-gpu==1.31.1.

    Raises:
        OperationalError: there is none, or several in one environment, or what several left.
    """
    found = [f"{name}=={version}" for name in _BUILDS if (version := _version(name))]
    if len(found) > 1:
        names = " ".join(build.partition("==")[0] for build in found)
        raise OperationalError(
            f"{' and '.join(found)} are installed in one environment; they write over each other's files",
            help=f"remove all and install one again: pip uninstall -y {names} && pip install {found[-1]} "
            f"(or {' or '.join(found[:-1])})",
        )
    # Without metadata it may still be there: built from source, or frozen into a program.
    return found[0] if found else f"onnxruntime=={_module().__version__}"


def gradient_builders() -> tuple[str, ...]:
    """The gradient builders that work here, the preferred one first.

    Who installed onnxruntime-training did it for its gradients, so where they are they are preferred.

    Raises:
        OperationalError: see `onnxruntime_build`.
    """
    onnxruntime_build()
    state = _module().capi._pybind_state
    return (ONNXRUNTIME_TRAINING, PORTABLE) if hasattr(state, "GradientGraphBuilder") else (PORTABLE,)


def choose_gradient_builder(wanted: str) -> str:
    """`wanted`, or for "auto" the preferred one of `gradient_builders`.

    Raises:
        UnknownNameError: there is no such builder.
        OperationalError: this environment lacks it, or see `onnxruntime_build`.
    """
    if wanted not in ("auto", *GRADIENT_BUILDERS):
        raise UnknownNameError("gradient builder", wanted, ("auto", *GRADIENT_BUILDERS))
    available = gradient_builders()
    if wanted == "auto":
        return available[0]
    if wanted not in available:
        raise OperationalError(
            f"gradient builder {wanted} is not in this environment, which has {onnxruntime_build()}",
            help=_TRAINING_HELP,
        )
    return wanted


def require_target(builder: str, target: Target) -> None:
    """Checks that a gradient builder makes graphs for `target`.

    Raises:
        UserError: only the portable one does.
    """
    if builder == ONNXRUNTIME_TRAINING and target.precision != "float32":
        raise UserError(
            f"gradient builder {builder} computes in float32, not in precision = {target.precision}",
            help=f"--gradient-builder {PORTABLE}, or --hparams precision=float32",
        )


def choose_provider(device: str) -> str:
    """Name of the execution provider for a torch device type, after it was seen to work.

    Raises:
        OperationalError: this build has none for it, or its libraries cannot be loaded; or see `onnxruntime_build`.
    """
    build, onnxruntime = onnxruntime_build(), _module()
    provider, available = _PROVIDERS.get(device, device), onnxruntime.get_available_providers()
    if provider not in available:
        raise OperationalError(
            f"{build} cannot run on {device}; it has {', '.join(available)}", help=_install_help(build, device)
        )
    if provider != _PROVIDERS["cpu"]:
        complaints = _preload(onnxruntime)
        if provider not in _started_providers(onnxruntime, provider):
            raise OperationalError(
                f"{build} has {provider}, but it does not start: {complaints or 'onnxruntime wrote why'}",
                help="check that nvidia-smi shows the GPU and that the CUDA and cuDNN libraries are those that this "
                "build needs (torch brings its own); or --engine torch; or CUDA_VISIBLE_DEVICES= (the CPU)",
            )
    return provider


def _module() -> Any:
    onnxruntime = import_onnxruntime()
    if not hasattr(onnxruntime, "InferenceSession"):
        raise OperationalError(
            "onnxruntime has lost its files: another build of it was in this environment and was removed",
            help="install again the one that stayed: pip install --force-reinstall --no-deps "
            + (" or ".join(f"{name}=={version}" for name in _BUILDS if (version := _version(name))) or "onnxruntime"),
        )
    return onnxruntime


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _install_help(build: str, device: str) -> str:
    name = build.partition("==")[0]
    if device != "cuda":
        return "choose cpu or cuda, or --engine torch"
    if name.startswith(ONNXRUNTIME_TRAINING):
        return "it runs on CPUs: CUDA_VISIBLE_DEVICES= (empty) trains there; for CUDA: 't2tdeploy[train-gpu]'"
    return (
        f"install the CUDA build in its place: pip uninstall -y {name} && pip install 't2tdeploy[train-gpu]'; "
        "or CUDA_VISIBLE_DEVICES= (empty) to train on the CPU, or --engine torch"
    )


def _preload(onnxruntime: Any) -> str:
    """Lets onnxruntime load the CUDA libraries that torch or pip brought; returns what it complained of.

    It prints its complaints. Builds before 1.21 find the libraries only where the system does.
    """
    printed = io.StringIO()
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(printed):
            onnxruntime.preload_dlls()
    lines = [line.strip() for line in printed.getvalue().splitlines()]
    return "; ".join(line.partition(": ")[2] for line in lines if line.startswith("Failed to load"))


def _started_providers(onnxruntime: Any, provider: str) -> list[str]:
    """The providers of a session that asked for `provider`: onnxruntime replaces one that fails by the CPU's."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    try:
        providers: list[str] = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=[provider]
        ).get_providers()
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise OperationalError(f"{provider} does not start: {error}", help="or train with --engine torch") from error
    return providers
