"""The contract of every model: bottom -> body -> top -> loss, and how it is decoded step by step.

A subclass normally writes only `body`. A model that can decode with a cache overrides `encode`, `initial_state` and
`decode_step`; one that does not is decoded by running `body` again on the whole prefix, in the same search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.features import PAD_ID, FeatureSpec
from t2tdeploy.hparams import HParams
from t2tdeploy.models.modalities import LossTerms, SymbolModality, correct_predictions, smoothed_cross_entropy

Batch = Mapping[str, Tensor]


def shift_right(ids: Tensor) -> Tensor:
    """[batch, target_length]: PAD in front, the last id dropped. PAD embeds to zero, so decoding starts from zero."""
    return F.pad(ids, (1, 0), value=PAD_ID)[:, :-1]


class Model(nn.Module):
    """Base of all models.

    Args:
        hparams: an instance of `hparams_class`, which has a `hidden_size`.
        features: declarations by name; "targets" is what the model predicts. Features that name the same vocabulary
            share one embedding.
    """

    hparams_class: ClassVar[type[HParams]]
    target = "targets"

    def __init__(self, hparams: HParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__()
        self.features = dict(features)
        sizes = {spec.vocabulary: spec.vocab_size for spec in features.values()}
        hidden_size: int = hparams.hidden_size  # type: ignore[attr-defined]  # every model's own hparams have one
        self.modalities = nn.ModuleDict(
            {name: SymbolModality(vocab_size=size, hidden_size=hidden_size) for name, size in sizes.items()}
        )

    def modality(self, feature: str) -> SymbolModality:
        """The modality that embeds `feature`."""
        module = self.modalities[self.features[feature].vocabulary]
        assert isinstance(module, SymbolModality)
        return module

    def bottom(self, batch: Batch) -> dict[str, Tensor]:
        """Embeds every feature, the target shifted right.

        Returns:
            for each feature NAME: NAME [batch, length, hidden] and NAME_mask [batch, length], True at real tokens.
        """
        embedded = {}
        for name in self.features:
            ids = shift_right(batch[name]) if name == self.target else batch[name]
            embedded[name] = self.modality(name).bottom(ids)
            embedded[f"{name}_mask"] = batch[name] != PAD_ID
        return embedded

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """Embedded features (see `bottom`) -> [batch, target_length, hidden]"""
        raise NotImplementedError(f"{type(self).__name__} must define body")

    def top(self, x: Tensor) -> Tensor:
        """[..., hidden] -> logits [..., vocab]"""
        return self.modality(self.target).top(x)

    def forward(self, batch: Batch) -> Tensor:
        """Teacher-forced logits [batch, target_length, vocab]."""
        return self.top(self.body(self.bottom(batch)))

    def loss(self, logits: Tensor, batch: Batch, *, label_smoothing: float) -> LossTerms:
        """Sums of loss and labels over the batch."""
        return smoothed_cross_entropy(logits, batch[self.target], label_smoothing)

    def correct(self, logits: Tensor, batch: Batch) -> Tensor:
        """How many labels of the batch the logits rank first, []."""
        return correct_predictions(logits, batch[self.target])

    # Decoding. `memory` is computed once per source and shared by its beams; `state` is what steps remember. A part of
    # it either belongs to one beam, has rows = batch * beam in front, and is reordered to the beams that go on; or it
    # keeps all that was decoded (axis `history`) in place, and `ancestors` says which of it each beam consists of.

    def memory_axes(self) -> dict[str, tuple[str | int, ...]]:
        """Name -> axes of what `encode` returns, in its order."""
        return {"memory_source_ids": ("batch", "source_length")}

    def state_axes(self) -> dict[str, tuple[str | int, ...]]:
        """Name -> axes of the decoding state, of which the first is `rows` (per beam) or `batch`.

        The axes `target_length` and `history` start at 0 and grow a step by 1 and by `beam`.
        """
        return {"state_prefix_ids": ("rows", "target_length")}

    def encode(self, source_ids: Tensor) -> tuple[Tensor, ...]:
        """source_ids [batch, source_length] -> memory"""
        return (source_ids,)

    def initial_state(self, batch: int, beam: int, device: torch.device) -> tuple[Tensor, ...]:
        """The state before the first step: zeros, and what grows is empty (export relies on both)."""
        return (torch.zeros(batch * beam, 0, dtype=torch.int64, device=device),)

    def decode_step(
        self, tokens: Tensor, step: Tensor, memory: Sequence[Tensor], state: Sequence[Tensor], ancestors: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """One position of all beams.

        Args:
            tokens: [batch, beam] int64, the ids chosen last; PAD before the first step.
            step: [] int64, how many positions lie behind.
            memory: what `encode` returned.
            state: what the step before returned; what has `rows` is reordered to the beams that `tokens` extend.
            ancestors: [batch, beam, history] bool, what of the history each beam consists of, with the position that
                this step adds: `beam` more entries, of which each beam has its own.

        Returns:
            logits [batch, beam, vocab]; attention [batch, beam, source_length], how much the choice of the next id
            looks at each position of the source, 0 where the model cannot say; the next state.
        """
        (source_ids,), (prefix,) = memory, state
        prefix = torch.cat([prefix, tokens.reshape(-1, 1)], dim=1)
        batch, beam = tokens.shape
        sources = source_ids.unsqueeze(1).expand(-1, beam, -1).flatten(0, 1)
        targets = F.pad(prefix[:, 1:], (0, 1), value=PAD_ID)  # the last is shifted out of sight
        logits = self.forward({"inputs": sources, self.target: targets})[:, -1]
        return logits.view(batch, beam, -1), logits.new_zeros(batch, beam, source_ids.size(1)), (prefix,)
