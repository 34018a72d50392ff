"""A module of one function, to export."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Calls(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)
