"""Functions of torch that torch.export would write out in a way that does not do, replaced by others.

Layers of LSTM and GRU and pooling over one axis would be written for one length only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from t2tdeploy.training.graph import recurrent


class Substitutes(TorchFunctionMode):
    """Inside this context, LSTM and GRU layers and pooling over one axis are computed in another, equal way.

    Packed sequences and LSTMs with projections stay torch's own.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        # The overloads for packed sequences have the batch's sizes as their second argument.
        if name == "lstm" and not isinstance(args[1], Tensor) and args[1][0].shape == args[1][1].shape:
            return recurrent.lstm(*args)
        if name == "gru" and not isinstance(args[2], Tensor):
            return recurrent.gru(*args)
        if func is F.max_pool1d and not kwargs.get("return_indices", False):
            return _max_pool1d(*args, **{key: value for key, value in kwargs.items() if key != "return_indices"})
        return func(*args, **kwargs)


def _max_pool1d(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """F.max_pool1d as pooling over two axes, the first of size 1."""
    names = ("kernel_size", "stride", "padding", "dilation")
    given = dict(zip((*names, "ceil_mode"), args, strict=False)) | kwargs
    neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    pairs = {
        name: (neutral[name], given[name] if isinstance(given[name], int) else given[name][0])
        for name in names
        if given.get(name) is not None
    }
    pairs.setdefault("stride", pairs["kernel_size"])
    pooled: Tensor = torch.max_pool2d(x.unsqueeze(-2), **pairs, ceil_mode=given.get("ceil_mode", False))
    return pooled.squeeze(-2)
