"""A model's tensors by name: what checkpoints hold, and how they come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from t2tdeploy.errors import InputError


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers; a tied parameter appears once, under its first name."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    persistent = model.state_dict(keep_vars=True)
    return parameters | {name: buffer for name, buffer in model.named_buffers() if name in persistent}


@torch.no_grad()
def load_parameters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies `tensors` into the model; names and shapes must be the model's own.

    Raises:
        InputError: they are not; the message lists the differences.
    """
    match = match_parameters(model, tensors)
    if not match.complete:
        raise InputError(
            f"this checkpoint is of another model: {match}",
            help="use the model and hparams that the checkpoint was trained with",
        )
    for name, tensor in named_tensors(model).items():
        tensor.copy_(tensors[name])


@dataclass(frozen=True)
class ParameterMatch:
    """How a checkpoint's tensors fit a model's.

    Args:
        matched: names whose shapes agree.
        reshaped: name -> (shape in the model, shape in the checkpoint), where they do not.
        missing: names only the model has.
        unused: names only the checkpoint has.
    """

    matched: tuple[str, ...]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """True if every tensor has its partner."""
        return not (self.reshaped or self.missing or self.unused)

    def __str__(self) -> str:
        shapes = [f"{name} is {theirs}, not {mine}" for name, (mine, theirs) in self.reshaped.items()]
        parts = [f"{len(self.matched)} match"]
        parts += [f"of other shapes: {', '.join(shapes)}"] if shapes else []
        parts += [f"missing: {', '.join(self.missing)}"] if self.missing else []
        parts += [f"not in the model: {', '.join(self.unused)}"] if self.unused else []
        return "; ".join(parts)


def match_parameters(model: nn.Module, tensors: Mapping[str, Tensor]) -> ParameterMatch:
    """Compares a checkpoint's tensors with the model's, by name and shape."""
    mine = named_tensors(model)
    both = [name for name in mine if name in tensors]
    return ParameterMatch(
        matched=tuple(name for name in both if mine[name].shape == tensors[name].shape),
        reshaped={
            name: (tuple(mine[name].shape), tuple(tensors[name].shape))
            for name in both
            if mine[name].shape != tensors[name].shape
        },
        missing=tuple(name for name in mine if name not in tensors),
        unused=tuple(name for name in tensors if name not in mine),
    )


def tensors_from(batch: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """The arrays of a batch as contiguous tensors on `device`; on the CPU they share memory, if it is contiguous."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
        for name, array in batch.items()
    }
