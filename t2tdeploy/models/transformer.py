"""The Transformer (Vaswani et al. 2017) with Tensor2Tensor's details: pre-norm with a final norm, biases only in the
feed-forward layers, zero start vector, learned target-space vector on the encoder's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.features import PAD_ID, FeatureSpec, Modality
from t2tdeploy.models.attention import (
    MASKED,
    CrossAttention,
    SelfAttention,
    ancestor_bias,
    causal_bias,
    padding_bias,
)
from t2tdeploy.models.layers import FeedForward, TimingSignal, layer_norm
from t2tdeploy.models.model import Batch, Model
from t2tdeploy.models.tokens import Tokens
from t2tdeploy.models.transformer_hparams import TransformerHParams
from t2tdeploy.registry import register_model


def _given(*tokens: Tokens | None) -> tuple[Tokens, ...]:
    """What a layer gets beside the rest: layers of a subclass need not know of tokens."""
    return tuple(one for one in tokens if one is not None)


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)). [batch, source_length, hidden], same out."""

    def __init__(
        self, *, hidden_size: int, filter_size: int, heads: int, dropout: float, attention_dropout: float,
        relu_dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention_norm = layer_norm(hidden_size)
        self.attention = SelfAttention(hidden_size=hidden_size, heads=heads, dropout=attention_dropout)
        self.feed_forward_norm = layer_norm(hidden_size)
        self.feed_forward = FeedForward(hidden_size=hidden_size, filter_size=filter_size, dropout=relu_dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, tokens: Tokens | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), bias, *_given(tokens)))
        result: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return result


class DecoderLayer(nn.Module):
    """As the encoder's, with attention over the source between the two. [batch, target_length, hidden], same out."""

    def __init__(
        self, *, hidden_size: int, filter_size: int, heads: int, dropout: float, attention_dropout: float,
        relu_dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.self_norm = layer_norm(hidden_size)
        self.self_attention = SelfAttention(hidden_size=hidden_size, heads=heads, dropout=attention_dropout)
        self.cross_norm = layer_norm(hidden_size)
        self.cross_attention = CrossAttention(hidden_size=hidden_size, heads=heads, dropout=attention_dropout)
        self.feed_forward_norm = layer_norm(hidden_size)
        self.feed_forward = FeedForward(hidden_size=hidden_size, filter_size=filter_size, dropout=relu_dropout)
        self.dropout = nn.Dropout(dropout)

    def over_source(
        self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor, tokens: Tokens | None = None
    ) -> tuple[Tensor, Tensor]:
        """What follows self-attention; x [batch, n, hidden] with n target positions or n beams; also the attention."""
        attended, weights = self.cross_attention(self.cross_norm(x), key, value, bias, *_given(tokens))
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), weights

    def forward(
        self, x: Tensor, self_bias: Tensor, memory: Tensor, source_bias: Tensor,
        tokens: Tokens | None = None, source_tokens: Tokens | None = None,
    ) -> Tensor:  # fmt: skip
        x = x + self.dropout(self.self_attention(self.self_norm(x), self_bias, *_given(tokens)))
        key, value = self.cross_attention.project(memory, *_given(source_tokens))
        return self.over_source(x, key, value, source_bias, tokens)[0]

    def step(
        self,
        x: Tensor,
        cache: Sequence[Tensor],
        past: Sequence[Tensor],
        self_bias: Tensor,
        key: Tensor,
        value: Tensor,
        source_bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One position of all beams: x [batch, beam, hidden]; cache, past: see `SelfAttention.step`; past may be empty.

        Returns x, the attention over the source [batch, heads, beam, source_length], the cache.
        """
        keys, values = cache
        before = (past[0], past[1]) if past else None
        attended, keys, values = self.self_attention.step(self.self_norm(x), keys, values, self_bias, before)
        x, weights = self.over_source(x + self.dropout(attended), key, value, source_bias)
        return x, weights, keys, values


@register_model
class Transformer(Model):
    """Encoder-decoder Transformer for text to text."""

    hparams_class = TransformerHParams
    default_hparams_set = "transformer_tiny"
    independent_rows = True
    packed_features = ("inputs", "targets")
    takes_past = True
    accepts: ClassVar = {"inputs": (Modality.SYMBOL,), "targets": (Modality.SYMBOL,)}

    def __init__(self, hparams: TransformerHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features)
        sizes: dict[str, Any] = {
            "hidden_size": hparams.hidden_size,
            "filter_size": hparams.filter_size,
            "heads": hparams.num_heads,
            "dropout": hparams.dropout,
            "attention_dropout": hparams.attention_dropout,
            "relu_dropout": hparams.relu_dropout,
        }
        self.head_dim = hparams.hidden_size // hparams.num_heads
        self.heads = hparams.num_heads
        self.timing = TimingSignal(hparams.hidden_size)
        # Tensor2Tensor embeds the id of the target space; one problem has one target space.
        self.target_space = nn.Parameter(torch.randn(hparams.hidden_size) * hparams.hidden_size**-0.5)
        self.encoder = nn.ModuleList(EncoderLayer(**sizes) for _ in range(hparams.num_encoder_layers))
        self.encoder_norm = layer_norm(hparams.hidden_size)
        self.decoder = nn.ModuleList(DecoderLayer(**sizes) for _ in range(hparams.num_decoder_layers))
        self.decoder_norm = layer_norm(hparams.hidden_size)
        self.dropout = nn.Dropout(hparams.dropout)

    def _positioned(self, x: Tensor) -> Tensor:
        """Adds the timing signal to [batch, length, hidden]."""
        result: Tensor = x + self.timing(torch.arange(x.size(1), device=x.device))
        return result

    def _encode(self, embedded: Tensor, mask: Tensor, tokens: Tokens | None = None) -> tuple[Tensor, Tensor]:
        """-> memory [batch, source_length, hidden] or [tokens, hidden], bias [batch, 1, 1, source_length]"""
        bias = padding_bias(mask)
        x = self._positioned(embedded + self.target_space)
        x = self.dropout(tokens.pack(x) if tokens else x)
        for layer in self.encoder:
            x = layer(x, bias, *_given(tokens))
        return self.encoder_norm(x), bias

    def _decode(
        self, features: Mapping[str, Tensor], source: Tokens | None = None, target: Tokens | None = None
    ) -> Tensor:
        """-> [batch, target_length, hidden] or [tokens, hidden]"""
        memory, source_bias = self._encode(features["inputs"], features["inputs_mask"], source)
        x = self._positioned(features["targets"])
        self_bias = causal_bias(x.size(1), x.device)
        x = self.dropout(target.pack(x) if target else x)
        for layer in self.decoder:
            x = layer(x, self_bias, memory, source_bias, *_given(target, source))
        result: Tensor = self.decoder_norm(x)
        return result

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return self._decode(features)

    def packed_body(self, features: Mapping[str, Tensor], tokens: Mapping[str, Tokens]) -> Tensor:
        return self._decode(features, tokens["inputs"], tokens["targets"])

    def memory_axes(self) -> dict[str, tuple[str | int, ...]]:
        projected: tuple[str | int, ...] = ("batch", self.heads, "source_length", self.head_dim)
        names = [f"memory_{i}_{part}" for i in range(len(self.decoder)) for part in ("key", "value")]
        return {"memory_bias": ("batch", 1, 1, "source_length"), **dict.fromkeys(names, projected)}

    def state_axes(self) -> dict[str, tuple[str | int, ...]]:
        cache: tuple[str | int, ...] = ("batch", self.heads, "history", self.head_dim)
        return {f"state_{i}_{part}": cache for i in range(len(self.decoder)) for part in ("key", "value")}

    def encode(self, source_ids: Tensor) -> tuple[Tensor, ...]:
        memory, bias = self._encode(self.modality("inputs").bottom(source_ids), source_ids != PAD_ID)
        projected = [part for layer in self._decoder_layers() for part in layer.cross_attention.project(memory)]
        return (bias, *projected)

    def initial_state(self, batch: int, beam: int, device: torch.device) -> tuple[Tensor, ...]:
        empty = torch.zeros(batch, self.heads, 0, self.head_dim, device=device)
        return (empty,) * (2 * len(self.decoder))

    def decode_step(
        self, tokens: Tensor, step: Tensor, memory: Sequence[Tensor], state: Sequence[Tensor], ancestors: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        encoded = len(self.memory_axes())
        (source_bias, *projected), past = memory[:encoded], memory[encoded:]
        x = self.dropout(self.modality("targets").bottom(tokens) + self.timing(step.reshape(1)))
        self_bias = ancestor_bias(ancestors)
        if past:
            # Told once, so that an exported step does not find it out for each layer.
            assert all(part.size(2) == past[0].size(2) for part in past)
            assert all(part.size(2) == state[0].size(2) for part in state)
            self_bias = F.pad(self_bias, (1, 0), value=MASKED)
        caches: list[Tensor] = []
        for i, layer in enumerate(self._decoder_layers()):
            pair = slice(2 * i, 2 * i + 2)
            key, value = projected[pair]
            x, weights, keys, values = layer.step(x, state[pair], past[pair], self_bias, key, value, source_bias)
            caches += [keys, values]
        return self.top(self.decoder_norm(x)), weights.mean(dim=1), tuple(caches)

    def cross_attention(self, batch: Batch) -> Tensor:
        """Weights of the last decoder layer over the source, [batch, heads, target_length, source_length]."""
        features = self.bottom(batch)
        memory, source_bias = self._encode(features["inputs"], features["inputs_mask"])
        x = self._positioned(features["targets"])
        self_bias = causal_bias(x.size(1), x.device)
        *before, last = self._decoder_layers()
        for layer in before:
            x = layer(x, self_bias, memory, source_bias)
        x = x + last.self_attention(last.self_norm(x), self_bias)
        key, _ = last.cross_attention.project(memory)
        return last.cross_attention.alignment(last.cross_norm(x), key, source_bias)

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]
