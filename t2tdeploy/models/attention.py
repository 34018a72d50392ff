"""Multi-head attention (Vaswani et al. 2017, 3.2): over itself with a growing cache, and over an encoded source.

    batch, source_length, target_length, history, beam, heads, head_dim, hidden: see t2tdeploy/features.py

Projections have no bias, as in Tensor2Tensor. Those of one input are one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2tdeploy.models.layers import linear
from t2tdeploy.models.tokens import Tokens

MASKED = -1e9


def padding_bias(mask: Tensor) -> Tensor:
    """mask [batch, length], True at real tokens -> bias [batch, 1, 1, length], very negative at pads."""
    return (~mask)[:, None, None, :].to(torch.float32) * MASKED


def ancestor_bias(ancestors: Tensor) -> Tensor:
    """ancestors [batch, beam, history] -> bias [batch, 1, beam, history] that hides what other beams decoded."""
    return torch.where(ancestors, 0.0, MASKED)[:, None]


def causal_bias(length: int, device: torch.device) -> Tensor:
    """bias [1, 1, length, length] that hides later positions."""
    return torch.full((length, length), MASKED, device=device).triu(1)[None, None]


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """[a, length, hidden] -> [a, heads, length, head_dim]"""
    return x.reshape(*x.shape[:-1], heads, x.size(-1) // heads).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    """[a, heads, length, head_dim] -> [a, length, hidden]"""
    return x.transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, *, hidden_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (hidden_size // heads) ** -0.5
        self.dropout = nn.Dropout(dropout)
        self.output = linear(hidden_size, hidden_size)

    def weights(self, query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
        """query [a, heads, n, head_dim], key [a, heads, m, head_dim] -> weights [a, heads, n, m]"""
        logits = (query * self.scale) @ key.transpose(-1, -2)
        return torch.softmax(logits if bias is None else logits + bias, dim=-1)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, tokens: Tokens | None = None
    ) -> tuple[Tensor, Tensor]:
        """-> [a, n, hidden] or [tokens, hidden], weights [a, heads, n, m]"""
        weights = self.weights(query, key, bias)
        found = self.dropout(weights) @ value
        return self.output(tokens.merge_heads(found) if tokens else _merge_heads(found)), weights

    def split_heads(self, x: Tensor, tokens: Tokens | None) -> Tensor:
        """[a, n, hidden] or [tokens, hidden] -> [a, heads, n, head_dim]"""
        return tokens.split_heads(x, self.heads) if tokens else _split_heads(x, self.heads)

    def attend_in_two(
        self, query: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], bias: Tensor
    ) -> Tensor:
        """As `attend` to what is keys and values [a, heads, m, head_dim] of `first`, and then of `second`."""
        query = query * self.scale
        logits = torch.cat([query @ key.transpose(-1, -2) for key, _ in (first, second)], dim=-1)
        weights = self.dropout(torch.softmax(logits + bias, dim=-1))
        shares = weights.split([first[0].size(2), second[0].size(2)], dim=-1)
        found = shares[0] @ first[1] + shares[1] @ second[1]
        result: Tensor = self.output(_merge_heads(found))
        return result


class SelfAttention(_Attention):
    """Attention of a sequence over itself."""

    def __init__(self, *, hidden_size: int, heads: int, dropout: float) -> None:
        super().__init__(hidden_size=hidden_size, heads=heads, dropout=dropout)
        self.query_key_value = linear(hidden_size, hidden_size, hidden_size, hidden_size)

    def forward(self, x: Tensor, bias: Tensor, tokens: Tokens | None = None) -> Tensor:
        """x [batch, length, hidden] or [tokens, hidden] -> the same"""
        query, key, value = (self.split_heads(part, tokens) for part in self.query_key_value(x).chunk(3, dim=-1))
        return self.attend(query, key, value, bias, tokens)[0]

    def step(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One more position of all beams.

        The caches hold every beam of every position, and the bias hides those that a beam does not come from: nothing
        is copied when beams change places, and one product serves all beams of a sentence.

        Args:
            x: [batch, beam, hidden]
            keys, values: [batch, heads, history, head_dim] of the positions so far.
            bias: see `ancestor_bias`; of the history with this position, and of what is before it.
            past: keys and values before those of the caches, at least one. They are only read, so a step copies less
                the shorter the caches are.

        Returns:
            output [batch, beam, hidden] and the caches, one position longer.
        """
        query, key, value = (_split_heads(part, self.heads) for part in self.query_key_value(x).chunk(3, dim=-1))
        keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        if past is None:
            return self.attend(query, keys, values, bias)[0], keys, values
        return self.attend_in_two(query, past, (keys, values), bias), keys, values


class CrossAttention(_Attention):
    """Attention of a target over an encoded source."""

    def __init__(self, *, hidden_size: int, heads: int, dropout: float) -> None:
        super().__init__(hidden_size=hidden_size, heads=heads, dropout=dropout)
        self.query = linear(hidden_size, hidden_size)
        self.key_value = linear(hidden_size, hidden_size, hidden_size)

    def project(self, memory: Tensor, tokens: Tokens | None = None) -> tuple[Tensor, Tensor]:
        """memory [batch, source_length, hidden] or [tokens, hidden] -> key, value [batch, heads, source_length,
        head_dim]"""
        key, value = (self.split_heads(part, tokens) for part in self.key_value(memory).chunk(2, dim=-1))
        return key, value

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor, tokens: Tokens | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [batch, n, hidden], n target positions or beams, or [tokens, hidden] -> the same; weights [batch, heads,
        n, source_length]"""
        return self.attend(self.split_heads(self.query(x), tokens), key, value, bias, tokens)

    def alignment(self, x: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        """The weights that `forward` uses, [batch, heads, n, source_length], for pictures."""
        return self.weights(_split_heads(self.query(x), self.heads), key, bias)
