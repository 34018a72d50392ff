"""What of onnxruntime runs a graph: its execution providers, by the kind of machine that a variant is made for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from t2tdeploy.errors import OperationalError
from t2tdeploy.tensorrt_engines import InputsProfile, engines_directory, provider_options

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""What of onnxruntime runs the variants of a target; what it cannot run, those before it do."""

NEEDED = {
    "cpu": "install onnxruntime: pip install 't2tdeploy[serve]'",
    "cuda": "install onnxruntime-gpu in the place of onnxruntime ('t2tdeploy[serve-gpu]')",
    "tensorrt": "install onnxruntime-gpu in the place of onnxruntime ('t2tdeploy[serve-gpu]') and the TensorRT that it "
    "was built with (pip install 'tensorrt>=10,<11')",
}
"""What the variants of a target need, besides a processor of that kind."""


def providers_of(graph: Path | bytes, target: str, profile: InputsProfile | None) -> list[Any]:
    """What InferenceSession is given, the target's first, with the options that it needs.

    Args:
        graph: a file, if the target is tensorrt.
        profile: given then.

    Raises:
        OperationalError: TensorRT is not installed, or engines cannot be kept.
    """
    if target != "tensorrt":
        return list(dict.fromkeys([PROVIDERS[target], PROVIDERS["cpu"]]))
    assert isinstance(graph, Path)
    assert profile is not None
    folder = engines_directory()
    try:
        importlib.import_module("tensorrt")  # loads the libraries that pip installed, where the provider does not look
        options = provider_options(graph, folder, profile)
    except ImportError as error:
        raise OperationalError(f"TensorRT cannot be imported: {error}", help=NEEDED[target]) from error
    except OSError as error:
        raise OperationalError(
            f"cannot keep engines in {folder}: {error}", help="set T2TDEPLOY_CACHE to a folder that can be written"
        ) from error
    return [(PROVIDERS[target], options), PROVIDERS["cuda"], PROVIDERS["cpu"]]
