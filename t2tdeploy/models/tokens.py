"""The tokens of a batch one behind another, so that layers that see each position alone do not compute padding.

Tensor2Tensor has its PadRemover around the feed-forward layers of an encoder. Here padding is left out of all but the
attention itself: the way there and back takes the place of the transposes that divide a sequence among heads.

    tokens: the positions of [batch, length] up to the last real token of each row, all of a row that has none, row by
            row; then one more, a pad, if any position is left
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("t2tdeploy::take_rows", mutates_args=())
def take_rows(x: Tensor, index: Tensor, back: Tensor) -> Tensor:
    """x[index], for x [m, n] and index [k]; the gradient of x is that of the result at `back` [m].

    That is the derivative where a row of either has one place in the other, or a gradient of zero. Sums over an index
    that may repeat take several times as long.
    """
    return x.index_select(0, index)


@take_rows.register_fake
def _(x: Tensor, index: Tensor, back: Tensor) -> Tensor:
    return x.new_empty((index.size(0), x.size(1)))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    index, back = ctx.saved_tensors
    return take_rows(gradient, back, index), None, None


take_rows.register_autograd(_backward, setup_context=_save)


class Tokens:
    """Where the tokens of one text of a batch are.

    All pads behind real tokens share the row of the last token. Nothing may depend on what they hold: then their
    gradients are zero, and none is lost. (On pads that are all of their row something does: where attention finds
    nothing but pads, it takes their mean. So these count as tokens.)

    Args:
        places: [tokens] int64, in [batch * length].
    """

    def __init__(self, places: Tensor, batch: int, length: int) -> None:
        self._places, self._batch, self._length = places, batch, length
        numbers = torch.arange(places.size(0), device=places.device)
        self._rows = numbers[-1:].expand(batch * length).scatter(0, places, numbers)
        self._by_heads: dict[int, tuple[Tensor, Tensor]] = {}

    def pack(self, x: Tensor) -> Tensor:
        """[batch, length, hidden] -> [tokens, hidden]"""
        packed: Tensor = take_rows(x.flatten(0, 1), self._places, self._rows)
        return packed

    def split_heads(self, x: Tensor, heads: int) -> Tensor:
        """[tokens, hidden] -> [batch, heads, length, head_dim]"""
        rows, places = self._of(heads)
        parts = x.reshape(-1, x.size(-1) // heads)
        split: Tensor = take_rows(parts, rows, places).view(self._batch, heads, self._length, -1)
        return split

    def merge_heads(self, x: Tensor) -> Tensor:
        """[batch, heads, length, head_dim] -> [tokens, hidden]"""
        heads, head_dim = x.size(1), x.size(-1)
        rows, places = self._of(heads)
        merged: Tensor = take_rows(x.reshape(-1, head_dim), places, rows).view(-1, heads * head_dim)
        return merged

    def _of(self, heads: int) -> tuple[Tensor, Tensor]:
        """For each of [batch, heads, length] its place in [tokens, heads], and the other way round."""
        if heads not in self._by_heads:
            head = torch.arange(heads, device=self._places.device)
            rows = self._rows.view(self._batch, 1, self._length) * heads + head[:, None]
            sentence = (self._places // self._length)[:, None]
            places = self._places[:, None] + (sentence * (heads - 1) + head) * self._length
            self._by_heads[heads] = rows.flatten(), places.flatten()
        return self._by_heads[heads]
