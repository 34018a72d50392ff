"""Sums of rows by index lose nothing, however often an index repeats and however many threads there are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.training.graph.joint import GraphNames, joint_graph
from t2tdeploy.training.graph.target import Device, Target
from tests.training.graph.parity import assert_equal, autograd, run, tensors


class Lookup(nn.Module):
    """Rows of a table, weighted."""

    def __init__(self, *, vocab: int, hidden: int, padding: int | None) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab, hidden, padding_idx=padding)

    def forward(self, ids: Tensor, weights: Tensor) -> tuple[Tensor]:
        return ((self.table(ids) * weights).sum(),)


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_embedding_gradient(device: Device, padding: int | None) -> None:
    """With one thread for the graph for CUDA: onnxruntime's ScatterND adds atomically there, and not on CPUs."""
    torch.manual_seed(1)
    module = Lookup(vocab=50, hidden=8, padding=padding)
    example = [torch.randint(50, (2, 3)), torch.randn(2, 3, 8)]
    axes = {0: Dim("batch"), 1: Dim("length")}
    graph = joint_graph(module, example, [axes, axes], GraphNames(("ids", "weights"), ("loss",)), target=Target(device))
    # One row; all the same; a few, very often; a block exactly; each once.
    for ids in (
        torch.tensor([[49]]),
        torch.full((20, 50), 2),
        torch.randint(3, (40, 50)),
        torch.randint(50, (8, 8)),
        torch.randperm(50).view(5, 10),
    ):
        batch = [ids, torch.randn(*ids.shape, 8)]
        feed = tensors(module) | dict(zip(("ids", "weights"), batch, strict=True))
        assert_equal(run(graph, feed, threads=8 if device == "cpu" else 1), autograd(module, batch, ("loss",)))
