"""Laws of packed tokens: there and back is where it was, by heads as without packing, and no gradient is lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t2tdeploy.models.tokens import Tokens, take_rows
from tests.models.tiny import padded, places_of, random_sources

HEADS, HEAD_DIM = 3, 2
BATCHES = {
    "padded": padded(random_sources(20, 1)),
    "full": torch.ones(4, 3, dtype=torch.int64),
    "a pad within": torch.tensor([[5, 0, 7], [5, 0, 0]]),
    "a row of pads": torch.tensor([[0, 0], [3, 1]]),
    "one token": torch.ones(1, 1, dtype=torch.int64),
}


@pytest.fixture(params=BATCHES, ids=str)
def ids(request: pytest.FixtureRequest) -> Tensor:
    return BATCHES[request.param]


def values(ids: Tensor) -> tuple[Tensor, Tensor]:
    """x [batch, length, hidden], and the same [tokens, hidden]"""
    x = torch.randn(*ids.shape, HEADS * HEAD_DIM)
    return x, x.flatten(0, 1)[places_of(ids)]


def kept(ids: Tensor) -> Tensor:
    """[batch, length], True where the row goes on with a real token, or has none."""
    return ((ids != 0).flip(1).cumsum(1).flip(1) > 0) | (ids == 0).all(1, keepdim=True)


def test_tokens_are_packed_in_order(ids: Tensor) -> None:
    x, packed = values(ids)
    torch.testing.assert_close(Tokens(places_of(ids), *ids.shape).pack(x), packed, rtol=0, atol=0)


def test_heads_are_those_without_packing(ids: Tensor) -> None:
    x, packed = values(ids)
    tokens = Tokens(places_of(ids), *ids.shape)
    expected = x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)
    at = kept(ids)[:, None].expand(-1, HEADS, -1)
    torch.testing.assert_close(tokens.split_heads(packed, HEADS)[at], expected[at], rtol=0, atol=0)
    torch.testing.assert_close(tokens.merge_heads(expected), packed, rtol=0, atol=0)


def test_layers_may_have_other_numbers_of_heads(ids: Tensor) -> None:
    """One batch, whose places among heads are kept for each number of them."""
    x, packed = values(ids)
    tokens = Tokens(places_of(ids), *ids.shape)
    for heads in (HEADS, 2 * HEADS, 1, HEADS):
        split = tokens.split_heads(packed, heads)
        assert split.shape == (len(ids), heads, ids.size(1), HEADS * HEAD_DIM // heads)
        torch.testing.assert_close(tokens.merge_heads(split), packed, rtol=0, atol=0)
        torch.testing.assert_close(split.transpose(1, 2).flatten(2)[kept(ids)], x[kept(ids)], rtol=0, atol=0)


def test_gradients_are_the_adjoint_where_pads_have_none(ids: Tensor) -> None:
    """<gradient of <A x, w>, v> = <A v, w>, if w is zero at pads, as the gradients of a loss are."""
    tokens = Tokens(places_of(ids), *ids.shape)
    x, packed = values(ids)
    w = torch.randn_like(x) * kept(ids)[..., None]
    w_heads, w_packed = w.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2), w.flatten(0, 1)[places_of(ids)]
    for there, start, weight in (
        (tokens.pack, x, w_packed),
        (lambda x: tokens.split_heads(x, HEADS), packed, w_heads),
        (tokens.merge_heads, torch.randn(w_heads.shape), w_packed),
    ):
        start.requires_grad_()
        (gradient,) = torch.autograd.grad((there(start) * weight).sum(), start)
        v = torch.randn_like(start)
        torch.testing.assert_close((gradient * v).sum(), (there(v) * weight).sum())


def test_the_operator_is_one_that_torch_can_export() -> None:
    x, index = torch.randn(3, 2, requires_grad=True), torch.tensor([2, 0, 1])
    torch.library.opcheck(take_rows, (x, index, index.argsort()))
