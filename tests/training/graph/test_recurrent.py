"""LSTM and GRU layers as operators equal torch's own, in torch and as a graph, for any length and batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.training.graph.substitutes import Substitutes
from tests.training.graph.parity import BATCH, assert_parity

_LENGTH = Dim("length")
_LAYERS = {
    "one": {},
    "two_both_ways": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without_bias": {"bias": False},
}


class Layer(nn.Module):
    """A recurrent layer whose final states count, too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.first = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, states = self.layer(x * self.first)
        states = states if isinstance(states, tuple) else (states,)
        return y.square().sum() + sum(state.sin().sum() for state in states), y


@pytest.mark.parametrize("options", _LAYERS.values(), ids=_LAYERS)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_graph_equals_torch(kind: type[nn.Module], options: dict[str, object]) -> None:
    torch.manual_seed(1)
    layer = Layer(kind(3, 5, **options))
    axes = {0: BATCH, 1: _LENGTH} if options.get("batch_first") else {0: _LENGTH, 1: BATCH}
    graph = assert_parity(layer, [torch.randn(3, 2, 3)], [torch.randn(7, 4, 3)], [axes])
    assert "Scan" in {node.op_type for node in graph.graph.node}


@pytest.mark.parametrize("options", _LAYERS.values(), ids=_LAYERS)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_operators_equal_torch(kind: type[nn.Module], options: dict[str, object]) -> None:
    torch.manual_seed(1)
    layer, x = Layer(kind(3, 5, **options)).double(), torch.randn(4, 6, 3, dtype=torch.double)

    def gradients() -> list[Tensor]:
        loss, y = layer(x)
        return [y, *torch.autograd.grad(loss, list(layer.parameters()))]

    expected = gradients()
    with Substitutes():
        found = gradients()
    torch.testing.assert_close(found, expected)


def test_packed_sequences_stay_as_they_are() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(4, 2, 3), torch.tensor([4, 2]))
    for layer in (nn.LSTM(3, 5), nn.GRU(3, 5), nn.LSTM(3, 5, proj_size=2)):
        expected, _ = layer(packed)
        with Substitutes():
            found, _ = layer(packed)
        torch.testing.assert_close(found.data, expected.data)
