"""How a feature enters a model (bottom), leaves it (top) and is judged (loss), after Tensor2Tensor's modalities."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.features import PAD_ID


class LossTerms(NamedTuple):
    """Sums over the labels that are not PAD; the mean loss is numerator / denominator.

    Kept apart so that accumulated batches and several processes average by tokens, not by batches.
    """

    numerator: Tensor  # [] float32
    denominator: Tensor  # [] float32, number of labels


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> LossTerms:
    """Cross-entropy against a soft target: 1 - e for the label, e / (vocab - 1) for each other word.

    The entropy of the soft target is subtracted, so that a perfect prediction costs 0 (Tensor2Tensor's
    `smoothing_cross_entropy`; the smoothing of Szegedy et al. 2016 spreads e over all words instead).

    Args:
        logits: [batch, target_length, vocab]
        labels: [batch, target_length]
        label_smoothing: e; 0 gives the negative log-likelihood.
    """
    logits, vocab = logits.float(), logits.size(-1)
    # With s = e·vocab/(vocab-1), PyTorch's uniform smoothing by s is exactly the soft target above.
    share = label_smoothing * vocab / (vocab - 1)
    labels = labels.flatten()
    weight = (labels != PAD_ID).float()
    losses = F.cross_entropy(logits.flatten(0, 1), labels, reduction="none", label_smoothing=share)
    tokens = weight.sum()
    numerator = (losses * weight).sum() - tokens * soft_target_entropy(label_smoothing, vocab)
    return LossTerms(numerator, tokens)


def correct_predictions(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of labels that are not PAD and have the largest logit, []; shapes as above."""
    return ((logits.argmax(-1) == labels) & (labels != PAD_ID)).sum()


def soft_target_entropy(label_smoothing: float, vocab: int) -> float:
    """Entropy in nats of the soft target: the lowest cross-entropy that a model can reach."""
    if label_smoothing == 0.0:
        return 0.0
    confidence, other = 1.0 - label_smoothing, label_smoothing / (vocab - 1)
    return -(confidence * math.log(confidence) + (vocab - 1) * other * math.log(other))


class SymbolModality(nn.Module):
    """Ids of one vocabulary: an embedding whose transpose is the output layer.

    The weight is drawn from N(0, hidden^-0.5); embeddings are scaled by hidden^0.5 and zero where the id is PAD.
    """

    def __init__(self, *, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.scale = hidden_size**0.5
        self.weight = nn.Parameter(torch.randn(vocab_size, hidden_size) * hidden_size**-0.5)

    def bottom(self, ids: Tensor) -> Tensor:
        """ids [...] -> embeddings [..., hidden]"""
        mask = (ids != PAD_ID).unsqueeze(-1).to(self.weight.dtype)
        embedded: Tensor = F.embedding(ids, self.weight) * (mask * self.scale)
        return embedded

    def top(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> logits [..., vocab]"""
        return x @ self.weight.t()
