"""Train sequence models, export them to one ONNX graph with beam search inside, and serve them over gRPC."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2tdeploy.api import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load`, imported when first used: the package itself loads nothing."""
    if name == "load":
        return importlib.import_module("t2tdeploy.api").load
    raise AttributeError(f"module 't2tdeploy' has no attribute '{name}'")
