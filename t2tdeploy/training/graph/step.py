"""What becomes a graph: a model's training loss, and its evaluation, as modules over positional tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from t2tdeploy.models.modalities import LossTerms, SymbolModality, soft_target_entropy
from t2tdeploy.models.model import Model
from t2tdeploy.models.tokens import Tokens
from t2tdeploy.training.graph.linear_cross_entropy import linear_cross_entropy
from t2tdeploy.training.precision import Precision

_OUTPUT_SIDE = ("forward", "top", "loss")


class TrainingStep(nn.Module):
    """The loss to differentiate. Call it with the scale of the gradients, one tensor per feature, and the places of the
    tokens of each of `packed` (see models/tokens.py).

    Args:
        model: in training mode.
        label_smoothing: see `smoothed_cross_entropy`.
        precision: of the output layer; that of the rest is autocast's.
        packed: features whose padding is not computed: none, or the model's `packed_features`.
    """

    def __init__(
        self, model: Model, *, label_smoothing: float, precision: Precision = "float32", packed: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.precision: Precision = precision
        self.packed = tuple(packed)

    def forward(self, loss_scale: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """loss_scale [] float32 -> numerator * loss_scale, numerator, denominator, all []"""
        given = len(self.model.features)
        batch = dict(zip(self.model.features, tensors[:given], strict=True))
        places = dict(zip(self.packed, tensors[given:], strict=True))
        terms = loss_terms(self.model, batch, self.label_smoothing, self.precision, places)
        return terms.numerator * loss_scale, terms.numerator.detach(), terms.denominator


class EvaluationStep(nn.Module):
    """Loss, labels and correct predictions of one tensor per feature, all []; then the logits, unless of text.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        batch = dict(zip(self.model.features, features, strict=True))
        logits = self.model(batch)
        terms = self.model.loss(logits, batch, label_smoothing=0.0)
        found = (terms.numerator, terms.denominator, self.model.correct(logits, batch))
        return found if self.model.autoregressive else (*found, logits.float())


def loss_terms(
    model: Model,
    batch: Mapping[str, Tensor],
    label_smoothing: float,
    precision: Precision = "float32",
    places: Mapping[str, Tensor] = MappingProxyType({}),
) -> LossTerms:
    """`model.loss` of `model(batch)`; where both are the contract's own, without logits of all rows at once.

    Args:
        places: of the tokens of `packed_features`; none: padding is computed, too.

    Raises:
        UserError: what `body` or `packed_body` returned cannot be; see `Model.require_vectors`.
    """
    if not has_tied_softmax(model):
        return model.loss(model(batch), batch, label_smoothing=label_smoothing)
    target, labels = model.modality(model.target), batch[model.target]
    assert isinstance(target, SymbolModality)
    vocab = target.weight.size(0)
    # The same smoothing as in smoothed_cross_entropy.
    share = label_smoothing * vocab / (vocab - 1)
    features, rows = model.bottom(batch), labels.flatten()
    if places:
        where = {name: Tokens(at, *batch[name].shape) for name, at in places.items()}
        rows = rows[places[model.target]]
        x = model.packed_body(features, where)
        model.require_vectors("packed_body", x, rows.shape)
    else:
        x = model.body(features)
        model.require_vectors("body", x, labels.shape)
        x = x.flatten(0, 1)
    numerator, _, _ = linear_cross_entropy(x.float(), target.weight, rows, share, precision)
    tokens = (labels != 0).float().sum()
    return LossTerms(numerator - tokens * soft_target_entropy(label_smoothing, vocab), tokens)


def has_tied_softmax(model: Model) -> bool:
    """Whether logits and loss are those of `Model`: a product with the target's embedding and its cross-entropy."""
    ours = all(getattr(type(model), name) is getattr(Model, name) for name in _OUTPUT_SIDE)
    return ours and type(model.modality(model.target)) is SymbolModality


def constant_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that no checkpoint holds, by name: the model made them, and the graph keeps them inside."""
    persistent = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name not in persistent}
