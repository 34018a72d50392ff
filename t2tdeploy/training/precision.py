"""16-bit arithmetic by the name that `HParams.precision` has for it."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def autocast(device_type: str, precision: str) -> torch.autocast:
    """Inside it, matrix products compute in `precision`; parameters and their gradients stay float32."""
    if precision == "float32":
        return torch.autocast(device_type, enabled=False)
    return torch.autocast(device_type, DTYPES[precision])
