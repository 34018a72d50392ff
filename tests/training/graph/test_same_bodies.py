"""Bodies are compared at parameters that are not those of the model, but that it could have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from t2tdeploy.errors import UserError
from t2tdeploy.models.tokens import Tokens
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.training.graph.same_bodies import require_same_bodies
from tests.models.tiny import HPARAMS, features

VOCAB = 20
EXAMPLE = {"inputs": torch.tensor([[5, 7, 3], [4, 9, 8]]), "targets": torch.tensor([[6, 2, 4], [9, 3, 7]])}

FINITE_WHERE: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "positive": (0.05, lambda number: number.log()),
    "negative": (-0.05, lambda number: (-number).sqrt()),
    "below one": (0.95, lambda number: (1 - number).sqrt()),
    "above a half": (0.6, lambda number: (number - 0.5).log()),
}
"""A number of a model, and what it makes of it, which is no number elsewhere."""


class Scaled(Transformer):
    """Both bodies are multiplied by what `scale` makes of a parameter; the packed one by a gate more."""

    scale: Callable[[Tensor], Tensor]

    def __init__(self, number: float, scale: Callable[[Tensor], Tensor], gate: float | None) -> None:
        super().__init__(HPARAMS.replace(num_encoder_layers=1, num_decoder_layers=1), features(VOCAB, joint=False))
        self.number, self.scale = nn.Parameter(torch.tensor(number)), scale
        self.gate = None if gate is None else nn.Parameter(torch.tensor(gate))

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return super().body(features) * self.scale(self.number)

    def packed_body(self, features: Mapping[str, Tensor], tokens: Mapping[str, Tokens]) -> Tensor:
        found = super().packed_body(features, tokens) * self.scale(self.number)
        return found if self.gate is None else found + self.gate * found


def compare(number: float, scale: Callable[[Tensor], Tensor], gate: float | None = None) -> None:
    torch.manual_seed(1)
    require_same_bodies(Scaled(number, scale, gate).eval(), ("inputs", "targets"), EXAMPLE)


@pytest.mark.parametrize("where", FINITE_WHERE)
def test_a_parameter_that_must_stay_in_a_range_does_not_make_bodies_differ(where: str) -> None:
    compare(*FINITE_WHERE[where])


@pytest.mark.parametrize("where", ["positive", "negative"])
@pytest.mark.parametrize("gate", [0.0, 1e-6, -1e-6])
def test_beside_one_of_a_certain_sign_a_gate_that_is_closed_hides_nothing(where: str, gate: float) -> None:
    with pytest.raises(UserError, match="packed_body of Scaled does not compute what its body does"):
        compare(*FINITE_WHERE[where], gate)


def test_bodies_that_only_compare_as_they_are_are_compared() -> None:
    with pytest.raises(UserError, match="packed_body of Scaled does not compute what its body does"):
        compare(*FINITE_WHERE["below one"], gate=0.5)


def test_a_packed_body_that_alone_makes_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="some differ by nan"):
        compare(*FINITE_WHERE["positive"], gate=float("nan"))
