"""A linear model of n-grams, each scaled by how it divides the classes: NBSVM (Wang and Manning 2012).

    logits = bias + sum over the n-grams f of a text: ratio[f] * weight[f] / sqrt(n-grams)
    ratio[f, c] = log P(f | c) - log P(f | not c), add-one smoothed, from the training data

The weights are learned by logistic loss, where the paper has the squared hinge loss; n-grams count as often as they
occur, and are found by a hash, so that there is no vocabulary of them. Of bytes, n-grams of 2 to 6 cover words, their
stems and endings, and short phrases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.features import PAD_ID, FeatureSpec, Modality
from t2tdeploy.models.model import Batch, Model
from t2tdeploy.models.nbsvm_hparams import NbsvmHParams
from t2tdeploy.registry import register_model

PRIME = 2**31 - 1  # hashes are below it, so that a step of the hash stays within 64 bits
FACTOR, STRIDE = 1_000_003, 7_919


@register_model
class Nbsvm(Model):
    """Naive Bayes ratios of hashed n-grams, and a weight for each."""

    hparams_class = NbsvmHParams
    default_hparams_set = "nbsvm_bytes"
    accepts: ClassVar = {"inputs": (Modality.SYMBOL,), "targets": (Modality.CLASS_LABEL, Modality.MULTI_LABEL)}

    def __init__(self, hparams: NbsvmHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features, body_size=1)
        self.modalities.pop(features["inputs"].vocabulary)  # no embeddings: the ids themselves come to body
        self.modality(self.target).output = nn.Identity()
        self.shortest, self.longest, self.buckets = hparams.min_ngram, hparams.max_ngram, hparams.buckets
        (classes,) = self.output_shape
        self.ratio = nn.Parameter(torch.zeros(self.buckets, classes), requires_grad=False)
        self.weight = nn.Parameter(torch.zeros(self.buckets, classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def bottom(self, batch: Batch) -> dict[str, Tensor]:
        """The ids of the text, as they are in the batch."""
        return {"inputs": batch["inputs"]}

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> logits [batch, classes]"""
        buckets, real = ngrams(features["inputs"], self.shortest, self.longest, self.buckets)
        scores = F.embedding(buckets, self.ratio * self.weight)
        found = real.unsqueeze(-1).to(scores.dtype)
        logits: Tensor = (scores * found).sum(1) / found.sum(1).clamp(min=1.0).sqrt() + self.bias
        return logits

    def initialize(self, batches: Iterable[Batch]) -> None:
        """Sets the ratios to those of the training data; see Model."""
        counts = torch.ones_like(self.ratio, dtype=torch.float64)
        others = counts.clone()
        for batch in batches:
            buckets, real = ngrams(batch["inputs"], self.shortest, self.longest, self.buckets)
            has = self._labels(batch)
            rows, places = real.nonzero(as_tuple=True)
            counts.index_add_(0, buckets[rows, places], has[rows])
            others.index_add_(0, buckets[rows, places], 1.0 - has[rows])
        self.ratio.copy_((counts / counts.sum(0)).log() - (others / others.sum(0)).log())

    def _labels(self, batch: Batch) -> Tensor:
        """[batch, classes] float64, 1 where an example has the class"""
        labels = batch[self.target]
        if self.features[self.target].modality is Modality.CLASS_LABEL:
            labels = F.one_hot(labels, self.ratio.size(1))
        return labels.to(torch.float64)


def ngrams(ids: Tensor, shortest: int, longest: int, buckets: int) -> tuple[Tensor, Tensor]:
    """The n-grams of texts as hashes; equal ones have equal hashes, whatever else is in the batch.

    Args:
        ids: [batch, length] int64, PAD behind.
        shortest, longest: n.

    Returns:
        [batch, n-grams] int64, below `buckets`, one for each n and each position that an n-gram can begin at; and
        which of them have no PAD.
    """
    real, hashes = ids != PAD_ID, ids
    padded = F.pad(ids, (0, longest - 1), value=PAD_ID)
    found, whole = [], []
    for n in range(1, longest + 1):
        if n > 1:
            following = padded.narrow(1, n - 1, ids.size(1))
            hashes = (hashes * FACTOR + following) % PRIME
            real = real & (following != PAD_ID)
        if n >= shortest:
            found.append((hashes * FACTOR + n * STRIDE) % PRIME % buckets)
            whole.append(real)
    return torch.cat(found, dim=1), torch.cat(whole, dim=1)
