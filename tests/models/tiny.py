"""Tiny models with far from uniform predictions, for laws that a large model would only make slower."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import torch

from t2tdeploy.features import EOS_ID, FeatureSpec, Modality
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_hparams import TransformerHParams, transformer_tiny

HPARAMS: TransformerHParams = transformer_tiny().replace(hidden_size=16, filter_size=32, num_heads=2)


def features(vocab_size: int, *, joint: bool = True) -> dict[str, FeatureSpec]:
    return {
        name: FeatureSpec(name, Modality.SYMBOL, "shared" if joint else name, vocab_size + (not joint) * i)
        for i, name in enumerate(("inputs", "targets"))
    }


def tiny_transformer(vocab_size: int, seed: int = 0, *, joint: bool = True, layers: int = 2) -> Transformer:
    torch.manual_seed(seed)
    hparams = HPARAMS.replace(num_encoder_layers=layers, num_decoder_layers=layers)
    model = Transformer(hparams, features(vocab_size, joint=joint)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(1.5)  # so that beams disagree; more would only amplify float noise
    return model


class Masked(Transformer):
    """A tiny model that never says other words than a few."""

    words: Collection[int] = ()
    fill = float("-inf")

    def top(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().top(x)
        hidden = torch.ones(logits.size(-1), dtype=torch.bool)
        hidden[torch.tensor(list(self.words))] = False
        return logits.masked_fill(hidden, self.fill)


def masked_transformer(vocab_size: int, words: Collection[int], fill: float, seed: int = 0) -> Masked:
    torch.manual_seed(seed)
    model = Masked(HPARAMS.replace(num_encoder_layers=1, num_decoder_layers=1), features(vocab_size)).eval()
    model.words, model.fill = words, fill
    return model


def random_sources(vocab_size: int, seed: int, count: int = 5) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [*torch.randint(3, vocab_size, (length,), generator=generator).tolist(), EOS_ID]
        for length in itertools.islice(itertools.cycle([4, 1, 7, 2, 5]), count)
    ]


def padded(rows: list[list[int]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def places_of(ids: torch.Tensor) -> torch.Tensor:
    """Of the tokens of ids [batch, length], see models/tokens.py: up to the last real one of a row, then one pad."""
    length = ids.size(1)
    ends = [max((place + 1 for place, one in enumerate(row) if one), default=length) for row in ids.tolist()]
    tokens = [row * length + place for row, end in enumerate(ends) for place in range(end)]
    pads = [row * length + place for row, end in enumerate(ends) for place in range(end, length)]
    return torch.tensor([*tokens, *pads[:1]])
