"""How a feature enters a model (bottom), leaves it (top) and is judged (loss), after Tensor2Tensor's modalities.

What each is in a batch is said in features.py. A modality has parameters only for the side that its feature is on:
embeddings for what is given, an output layer for what is predicted; text has one weight for both.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.columns.fitted import NumericColumn, column_of
from t2tdeploy.errors import Fault, SettingsError, UserError
from t2tdeploy.features import PAD_ID, FeatureSpec, Modality
from t2tdeploy.models.layers import linear

PREDICTED = (Modality.SYMBOL, Modality.CLASS_LABEL, Modality.MULTI_LABEL, Modality.REAL)  # what a target may be


class LossTerms(NamedTuple):
    """Sums over the labels; the mean loss is numerator / denominator.

    Kept apart so that accumulated batches and several processes average by labels, not by batches.
    """

    numerator: Tensor  # [] float32
    denominator: Tensor  # [] float32, number of labels: tokens that are not PAD, or examples


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


def require_label_smoothing(target: FeatureSpec, label_smoothing: float) -> None:
    """Checks that no other choice becomes likelier in the soft target than the label.

    Raises:
        SettingsError: one does.
    """
    is_set = target.modality is Modality.MULTI_LABEL  # each class a choice of two
    choices = 2 if is_set else target.vocab_size or len(target.classes)
    if choices < 2 or label_smoothing * choices / (choices - 1) <= 1.0:
        return
    what = "any of them" if is_set else f"one of {choices}"
    most = math.floor(1000 * (1 - 1 / choices)) / 1000
    problem = (
        f"of '{target.name}', {what}, a wrong one would be likelier than the right one; at most {most} is possible"
    )
    raise SettingsError("hparams", [Fault("label_smoothing", label_smoothing, problem)], help="0.1 is usual")


class BaseModality(nn.Module):
    """What all modalities share.

    Attributes:
        size: numbers that `bottom` makes of one example, all axes together; of text, of one token.
    """

    size: int = 0

    def bottom(self, x: Tensor) -> Tensor:
        """A feature of the batch -> what `body` gets."""
        raise NotImplementedError(f"{type(self).__name__} has no bottom")

    def top(self, x: Tensor) -> Tensor:
        """What `body` returned, [..., body_size] -> logits, or values of numbers."""
        raise NotImplementedError(f"{type(self).__name__} has no top")

    def loss(self, logits: Tensor, labels: Tensor, *, label_smoothing: float) -> LossTerms:
        """Sums of loss and labels over the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many labels `logits` predict, [] int64."""
        raise NotImplementedError(f"{type(self).__name__} has no labels")

    def count(self, labels: np.ndarray) -> int:
        """How many labels a batch has: the denominator of `loss`, without running the model."""
        return len(labels)


class SymbolModality(BaseModality):
    """Ids of one vocabulary: an embedding whose transpose is the output layer.

    The weight is drawn from N(0, hidden^-0.5); embeddings are scaled by hidden^0.5 and zero where the id is PAD.
    """

    def __init__(self, *, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.size = hidden_size
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

    def loss(self, logits: Tensor, labels: Tensor, *, label_smoothing: float) -> LossTerms:
        """logits [batch, target_length, vocab], labels [batch, target_length]; PAD does not count."""
        return smoothed_cross_entropy(logits, labels, label_smoothing)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return correct_predictions(logits, labels)

    def count(self, labels: np.ndarray) -> int:
        return int(np.count_nonzero(labels))


class ClassLabelModality(BaseModality):
    """One of several classes: an embedding of the class, or a linear map to a logit for each.

    Args:
        body_size: width of what `body` returns, of a target; None of an input.
    """

    def __init__(self, *, classes: int, hidden_size: int, body_size: int | None) -> None:
        super().__init__()
        self.size = hidden_size
        if body_size is None:
            self.weight = nn.Parameter(torch.randn(classes, hidden_size) * hidden_size**-0.5)
        else:
            self.output = linear(body_size, classes, bias=True)

    def bottom(self, x: Tensor) -> Tensor:
        """ids [batch] -> embeddings [batch, hidden]"""
        return F.embedding(x, self.weight)

    def top(self, x: Tensor) -> Tensor:
        """x [batch, body_size] -> logits [batch, classes]"""
        logits: Tensor = self.output(x)
        return logits

    def loss(self, logits: Tensor, labels: Tensor, *, label_smoothing: float) -> LossTerms:
        """logits [batch, classes], labels [batch]: as of text, but that id 0 is a class like the others."""
        classes = logits.size(-1)
        # Written out: of F.cross_entropy torch.onnx states a wrong shape, after which sums over it would be lost.
        is_label = labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)
        soft = torch.where(is_label, 1.0 - label_smoothing, label_smoothing / (classes - 1))
        losses = -(soft * torch.log_softmax(logits.float(), -1)).sum(-1)
        return _sums(losses - soft_target_entropy(label_smoothing, classes))

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.argmax(-1) == labels).sum()


class MultiLabelModality(BaseModality):
    """Any number of classes: a linear map of the vector of zeros and ones, or to a logit for each class."""

    def __init__(self, *, classes: int, hidden_size: int, body_size: int | None) -> None:
        super().__init__()
        self.size = hidden_size
        self.input = linear(classes, hidden_size, bias=True) if body_size is None else None
        self.output = None if body_size is None else linear(body_size, classes, bias=True)

    def bottom(self, x: Tensor) -> Tensor:
        """x [batch, classes] -> [batch, hidden]"""
        assert self.input is not None
        result: Tensor = self.input(x)
        return result

    def top(self, x: Tensor) -> Tensor:
        """x [batch, body_size] -> logits [batch, classes], of one sigmoid each"""
        assert self.output is not None
        logits: Tensor = self.output(x)
        return logits

    def loss(self, logits: Tensor, labels: Tensor, *, label_smoothing: float) -> LossTerms:
        """logits, labels [batch, classes]: the loss of an example is the sum over its classes, each a choice of two."""
        soft = labels * (1.0 - 2.0 * label_smoothing) + label_smoothing
        losses = F.binary_cross_entropy_with_logits(logits.float(), soft, reduction="none")
        return _sums((losses - soft_target_entropy(label_smoothing, 2)).sum(-1))

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Examples of which every class is on the right side of probability 0.5."""
        return ((logits > 0) == (labels > 0.5)).all(-1).sum()


class RealModality(BaseModality):
    """Numbers: a linear map of the last axis in (none for `hidden_size` None, then they come as they are) and out.

    Args:
        shape: of one example.
        body_size: width of what `body` returns, of a target; None of an input.
        column: of a target, mean and deviation of its training values: `body` and loss then are in deviations from the
            mean, while labels and values stay in their own unit.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        hidden_size: int | None,
        body_size: int | None,
        column: NumericColumn | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.scaled = column is not None
        if column is not None:
            for name, value in zip(("mean", "deviation"), column.constants, strict=True):
                self.register_buffer(name, torch.from_numpy(value), persistent=False)
        self.size = math.prod(shape) if hidden_size is None else math.prod(shape[:-1]) * hidden_size
        mapped = body_size is None and hidden_size is not None
        self.input = linear(shape[-1] if shape else 1, hidden_size or 1, bias=True) if mapped else None
        self.output = None if body_size is None else linear(body_size, math.prod(shape), bias=True)

    def bottom(self, x: Tensor) -> Tensor:
        """x [batch, *shape] -> [batch, *shape without the last axis, hidden]"""
        if self.input is None:
            return x
        result: Tensor = self.input(x if self.shape else x.unsqueeze(-1))
        return result

    def top(self, x: Tensor) -> Tensor:
        """x [batch, body_size] -> values [batch, *shape]"""
        assert self.output is not None
        values: Tensor = self.output(x)
        values = values.reshape(-1, *self.shape) if self.shape else values.squeeze(-1)
        return values * self.deviation + self.mean if self.scaled else values

    def loss(self, logits: Tensor, labels: Tensor, *, label_smoothing: float) -> LossTerms:
        """Squared error, of an example the mean over its numbers; there is nothing to smooth."""
        errors = logits.float() - labels
        errors = (errors / self.deviation if self.scaled else errors).square()
        return _sums(errors.flatten(1).mean(-1) if self.shape else errors)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """None: a number is never quite right."""
        return torch.zeros_like(labels, dtype=torch.int64).sum()


class ImageModality(BaseModality):
    """Pixels: from bytes, channels last, to numbers from -1 to 1, channels first."""

    def __init__(self, *, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.size = math.prod(shape)

    def bottom(self, x: Tensor) -> Tensor:
        """x [batch, height, width, channels] uint8 -> [batch, channels, height, width]"""
        return x.float().permute(0, 3, 1, 2) * (2.0 / 255.0) - 1.0


class CategoryModality(BaseModality):
    """The id of a value of a column: an embedding."""

    def __init__(self, *, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.size = hidden_size
        self.weight = nn.Parameter(torch.randn(vocab_size, hidden_size) * hidden_size**-0.5)

    def bottom(self, x: Tensor) -> Tensor:
        """ids [batch] -> embeddings [batch, hidden]"""
        return F.embedding(x, self.weight)


def make_modality(
    spec: FeatureSpec, *, hidden_size: int, body_size: int | None, raw_numbers: bool = False
) -> BaseModality:
    """The modality of a feature.

    Args:
        body_size: width of what `body` returns, of a target (one of PREDICTED); None of an input.
        raw_numbers: REAL inputs come to `body` as they are.

    Raises:
        UserError: a target with nothing to choose from.
    """
    labels: dict[str, Any] = {"hidden_size": hidden_size, "body_size": body_size}
    match spec.modality:
        case Modality.SYMBOL:
            return SymbolModality(vocab_size=spec.vocab_size, hidden_size=hidden_size)
        case Modality.CLASS_LABEL:
            if body_size is not None and len(spec.classes) < 2:
                raise UserError(
                    f"'{spec.name}' has {len(spec.classes)} classes, and a model that chooses one needs two or more",
                    help="look at the data: t2tdeploy inspect shows how many examples each class has",
                )
            return ClassLabelModality(classes=len(spec.classes), **labels)
        case Modality.MULTI_LABEL:
            return MultiLabelModality(classes=len(spec.classes), **labels)
        case Modality.REAL:
            inner = None if raw_numbers else hidden_size
            column = column_of(spec) if body_size is not None else None
            assert column is None or isinstance(column, NumericColumn)
            return RealModality(shape=spec.shape, hidden_size=inner, body_size=body_size, column=column)
        case Modality.IMAGE:
            return ImageModality(shape=spec.shape)
        case Modality.CATEGORY:
            return CategoryModality(vocab_size=spec.vocab_size, hidden_size=hidden_size)


def _sums(losses: Tensor) -> LossTerms:
    """losses [batch] of the examples"""
    return LossTerms(losses.sum(), torch.ones_like(losses).sum())
