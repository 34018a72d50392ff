"""Whether `body` and `packed_body` of a model compute the same: one is evaluated and exported, the other trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from t2tdeploy.errors import UserError
from t2tdeploy.features import PAD_ID
from t2tdeploy.models.model import Model
from t2tdeploy.models.tokens import Tokens
from t2tdeploy.training.graph.faults import example_faults
from t2tdeploy.training.graph.packed import INSTEAD

_SAME = 1e-3  # of the largest number: bodies that differ more compute different things


def require_same_bodies(model: Model, packed: Sequence[str], example: Mapping[str, Tensor]) -> None:
    """Compares what `body` and `packed_body` make of the tokens of an example of which pads are put at some ends.

    Parameters are moved a little for it: what is 0 at first, as a gate or the last layer of a branch may be, would hide
    what comes before it. They stay as they are if `body` makes of the moved ones what is no number.

    Args:
        model: in evaluation mode.
        packed: its `packed_features`; none: there is nothing to compare.
        example: feature -> value, texts without a pad and of few tokens, as the model may know few positions.

    Raises:
        UserError: they differ by more than rounding.
        DifferentiationError: what they make of the example cannot be computed.
    """
    if not packed:
        return
    batch, places = dict(example), {}
    for name in packed:
        rows, length = example[name].shape
        real = torch.arange(length) < length - torch.arange(rows)[:, None] % length
        batch[name] = example[name].where(real, PAD_ID)
        places[name] = torch.cat([real.flatten().nonzero(), (~real).flatten().nonzero()[:1]]).flatten()
    bodies = _Bodies(model)
    real = batch[model.target].flatten()[places[model.target]] != PAD_ID
    for parameters in (_moved(bodies), {}):
        with torch.no_grad(), example_faults(bodies):
            whole, alone = (x[real] for x in functional_call(bodies, parameters, (batch, places)))
        if whole.isfinite().all():
            break
    difference, largest = (float(x.abs().max()) for x in (whole - alone, whole))
    if not difference <= _SAME * largest:
        raise UserError(
            f"packed_body of {type(model).__name__} does not compute what its body does: of numbers up to {largest:.3g}"
            f" some differ by {difference:.3g}",
            help=f"let both make the same of every token, or {INSTEAD}",
        )


class _Bodies(nn.Module):
    """Both as one module, so that both get the same parameters."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors of the tokens of the target, [tokens, hidden] each."""
        features, rows = self.model.bottom(batch), places[self.model.target]
        whole = self.model.body(features)
        self.model.require_vectors("body", whole, batch[self.model.target].shape)
        tokens = {name: Tokens(at, *batch[name].shape) for name, at in places.items()}
        alone = self.model.packed_body(features, tokens)
        self.model.require_vectors("packed_body", alone, rows.shape)
        return whole.flatten(0, 1)[rows], alone


def _moved(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters, each number 0.1 to 0.2 away from 0; those of matrices less, so that products stay as large.

    Thus what is positive, as a temperature whose logarithm is taken, stays so.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(parameter: Tensor) -> Tensor:
        size, sign = (torch.rand(parameter.shape, generator=generator) for _ in range(2))
        inputs = parameter[0].numel() if parameter.dim() > 1 else 1
        away = torch.where(parameter == 0, torch.where(sign < 0.5, 1.0, -1.0), parameter.sign())
        by: Tensor = (0.1 + 0.1 * size) * away / inputs**0.5
        return parameter + by

    return {name: moved(parameter.detach()) for name, parameter in module.named_parameters()}
