"""Start from the parameters of another run: whatever fits by name and shape (Tensor2Tensor's --warm_start_from)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.training.checkpoints import MODEL, STATE, read_tensors
from t2tdeploy.training.parameters import ParameterMatch, match_parameters, named_tensors
from t2tdeploy.training.run_directory import RunDirectory


def read_parameters(path: Path) -> dict[str, Tensor]:
    """The parameters in a run directory (its best checkpoint), a checkpoint folder or a .safetensors file.

    Raises:
        InputError: it is none of these.
        CorruptFileError: it is damaged.
    """
    if path.is_file() and path.suffix == ".safetensors":
        try:
            tensors: dict[str, Tensor] = load_file(path)
        except SafetensorError as error:
            raise CorruptFileError(path, str(error)) from error
        return tensors
    if (path / STATE).is_file():
        return read_tensors(path, MODEL)
    if (path / "run.json").is_file():
        return read_tensors(RunDirectory.open(path).checkpoint_path("best"), MODEL)
    raise InputError(
        f"cannot warm start from {path}",
        path=path,
        help="give a run directory, a checkpoint folder (step-…) or a .safetensors file",
    )


@torch.no_grad()
def warm_start(model: nn.Module, tensors: Mapping[str, Tensor]) -> ParameterMatch:
    """Copies the tensors whose name and shape the model knows; the rest keeps its initial values.

    Raises:
        InputError: none fits.
    """
    match = match_parameters(model, tensors)
    if not match.matched:
        raise InputError(
            "warm start: no parameter of the checkpoint fits the model by name and shape",
            help="start from a checkpoint of the same kind of model",
        )
    mine = named_tensors(model)
    for name in match.matched:
        mine[name].copy_(tensors[name])
    return match
