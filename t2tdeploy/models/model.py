"""The contract of every model: bottom -> body -> top -> loss, and how it is decoded step by step.

A subclass normally writes only `body`. A model that can decode with a cache overrides `encode`, `initial_state` and
`decode_step`; one that does not is decoded by running `body` again on the whole prefix, in the same search.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.errors import UserError
from t2tdeploy.features import PAD_ID, FeatureSpec, Modality
from t2tdeploy.hparams import BasicHParams, HParams
from t2tdeploy.models.layers import masked_mean
from t2tdeploy.models.modalities import PREDICTED, BaseModality, LossTerms, make_modality
from t2tdeploy.models.tokens import Tokens
from t2tdeploy.registry import snake_case

Batch = Mapping[str, Tensor]
FIXED_OUTPUTS = tuple(modality for modality in PREDICTED if modality is not Modality.SYMBOL)
Task = Literal["translate", "classify", "regress"]
TASKS: dict[Modality, Task] = {  # by the target
    Modality.SYMBOL: "translate",
    Modality.CLASS_LABEL: "classify",
    Modality.MULTI_LABEL: "classify",
    Modality.REAL: "regress",
}


def defining_class(kind: type[Model], method: str) -> type:
    """The class whose own `method` a model of this kind has: what it says of itself counts there, see `Model`."""
    return next(one for one in kind.__mro__ if method in vars(one))


def shift_right(ids: Tensor) -> Tensor:
    """[batch, target_length]: PAD in front, the last id dropped. PAD embeds to zero, so decoding starts from zero."""
    return F.pad(ids, (1, 0), value=PAD_ID)[:, :-1]


class Model(nn.Module):
    """Base of all models.

    A model whose target is text is autoregressive: `body` also sees the target, shifted right, and returns a vector for
    each position. Of any other target `body` sees nothing, and returns one vector for the example.

    Args:
        hparams: an instance of `hparams_class`; its `hidden_size`, if it has one, is the width of embeddings.
        features: declarations by name; "targets" is what the model predicts. Features that name the same vocabulary
            share one embedding.
        body_size: width of what `body` returns, if the target is not text; default: hidden_size.

    Attributes:
        hparams_class: of its hyperparameters.
        default_hparams_set: the named set that training starts from if none is asked for; none: the fields' defaults.
        accepts: feature -> what it may be; features that are not named may be anything.
        independent_rows: the loss of an example does not depend on the other examples of its batch, so that an engine
            may divide batches. Not with batch normalization, nor with a loss that compares examples. It is not
            inherited: what a subclass adds may change it.
        packed_features: the texts whose padding `packed_body` leaves out, the target among them; an engine may train by
            it and not by `body`. Nor is this inherited: a layer of a subclass may look at several positions.
        raw_numbers: REAL inputs come to `body` as they are, [batch, *shape], not through a linear map.
        takes_past: `decode_step` may be given what was decoded long ago apart, so that an exported search copies less.
            Behind what `encode` returned, `memory` then has the parts of the state with the axis `history`, in their
            order, as they were at some step, and the state has what came after. Their axis is `past`; its first entry
            is a blank, of which `ancestors` says nothing, and which is to be hidden. This counts in the class that
            defines `decode_step`.

    Raises:
        UserError: a feature that this model cannot treat.
    """

    hparams_class: ClassVar[type[HParams]] = BasicHParams
    default_hparams_set: ClassVar[str | None] = None
    accepts: ClassVar[Mapping[str, tuple[Modality, ...]]] = {}
    independent_rows: ClassVar[bool] = False
    packed_features: ClassVar[tuple[str, ...]] = ()
    raw_numbers: ClassVar[bool] = False
    takes_past: ClassVar[bool] = False
    target = "targets"

    def __init__(self, hparams: HParams, features: Mapping[str, FeatureSpec], *, body_size: int | None = None) -> None:
        super().__init__()
        self.require_features(features)
        self.features = dict(features)
        hidden_size: int | None = getattr(hparams, "hidden_size", body_size)
        assert hidden_size is not None, "hparams without a hidden_size need a body_size"
        self._keys = _module_names(features)
        self.modalities = nn.ModuleDict()
        for name, key in self._keys.items():
            if key not in self.modalities:
                self.modalities[key] = make_modality(
                    features[name],
                    hidden_size=hidden_size,
                    body_size=(body_size or hidden_size) if name == self.target else None,
                    raw_numbers=self.raw_numbers,
                )

    @classmethod
    def require_features(cls, features: Mapping[str, FeatureSpec]) -> None:
        """Checks that the model can treat these features.

        Raises:
            UserError: one is missing or of the wrong kind.
        """
        name = snake_case(cls.__name__)
        for feature, kinds in {cls.target: PREDICTED, **cls.accepts}.items():
            if feature not in features:
                raise UserError(
                    f"model {name} needs a feature '{feature}'; those of this problem: {', '.join(features)}",
                    help="t2tdeploy list models shows what there is",
                )
            if features[feature].modality not in kinds:
                raise UserError(
                    f"model {name} needs {' or '.join(kinds)} as '{feature}', which here is "
                    f"{features[feature].modality}",
                    help="choose another model: t2tdeploy list models shows what there is",
                )

    @property
    def autoregressive(self) -> bool:
        """True if the target is text, and predicted token by token."""
        return self.task == "translate"

    @property
    def task(self) -> Task:
        """What the model does."""
        return TASKS[self.features[self.target].modality]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of what `forward` returns for one example, if the target is not text: (classes,), or that of the numbers."""
        spec = self.features[self.target]
        return spec.shape if spec.modality is Modality.REAL else (len(spec.classes),)

    def modality(self, feature: str) -> BaseModality:
        """The modality of `feature`."""
        module = self.modalities[self._keys[feature]]
        assert isinstance(module, BaseModality)
        return module

    def bottom(self, batch: Batch) -> dict[str, Tensor]:
        """What `body` gets: every feature through its modality, a target of text shifted right, any other left out.

        Returns:
            for each feature NAME: NAME, of text [batch, length, hidden], of an image [batch, channels, height, width],
            of others see modalities.py; of text also NAME_mask [batch, length], True at real tokens.
        """
        found = {}
        for name, spec in self.features.items():
            if spec.modality is not Modality.SYMBOL:
                if name != self.target:
                    found[name] = self.modality(name).bottom(batch[name])
                continue
            ids = shift_right(batch[name]) if name == self.target else batch[name]
            found[name] = self.modality(name).bottom(ids)
            found[f"{name}_mask"] = batch[name] != PAD_ID
        return found

    @property
    def flattened_size(self) -> int:
        """Width of what `flattened` returns."""
        return sum(self.modality(name).size for name in self.features if name != self.target)

    def flattened(self, features: Mapping[str, Tensor]) -> Tensor:
        """What `bottom` made of all inputs as one vector, of text the mean of its tokens: [batch, flattened_size]."""
        parts = []
        for name in self.features:
            if name != self.target:
                mask = features.get(f"{name}_mask")
                x = features[name] if mask is None else masked_mean(features[name], mask)
                parts.append(x.flatten(1) if x.dim() > 1 else x.unsqueeze(1))
        return torch.cat(parts, dim=1)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """What `bottom` returned -> [batch, target_length, hidden] for text.

        For any other target [batch, body_size], or [batch, ..., body_size], of which the mean is taken.
        """
        raise NotImplementedError(f"{type(self).__name__} must define body")

    def packed_body(self, features: Mapping[str, Tensor], tokens: Mapping[str, Tokens]) -> Tensor:
        """As `body` of a target that is text, but [tokens, hidden], of its tokens alone.

        It must compute what `body` does: the two are compared where a graph is built, and defined in, or inherited
        from, one class. Nothing may depend on a pad behind real tokens (models/tokens.py). In what goes through
        dropout, tokens may only be the first axis.

        Args:
            features: what `bottom` returned.
            tokens: of each of `packed_features`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define packed_body")

    def pooled(self, x: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """What `body` returned -> [batch, body_size], unless the target is text: the mean over what lies between.

        Tensor2Tensor's class_label_top, but that of text only real tokens count: so the result does not depend on what
        else is in the batch.

        Raises:
            UserError: `body` returned positions of which nobody knows whether they are padding.
        """
        if self.autoregressive or x.dim() == 2:
            return x
        masks = [mask for name, mask in features.items() if name.endswith("_mask")]
        if not masks:
            return x.flatten(1, -2).mean(1)
        if x.dim() != 3 or len(masks) > 1 or x.size(1) != masks[0].size(1):
            raise UserError(
                f"body of model {snake_case(type(self).__name__)} returned {x.dim()} axes, and which positions are "
                f"padding of a text is known of [batch, length, {x.size(-1)}] only, for one text",
                help="let body return [batch, body_size], e.g. by t2tdeploy.models.layers.masked_mean",
            )
        return masked_mean(x, masks[0])

    def top(self, x: Tensor) -> Tensor:
        """[..., hidden] -> logits [..., vocab] of text; else [batch, body_size] -> logits, or values of numbers."""
        return self.modality(self.target).top(x)

    def forward(self, batch: Batch) -> Tensor:
        """Teacher-forced logits [batch, target_length, vocab] of text; else logits [batch, classes] or values."""
        features = self.bottom(batch)
        x = self.body(features)
        if self.autoregressive and type(self).top is Model.top:
            self.require_vectors("body", x, batch[self.target].shape)
        return self.top(self.pooled(x, features))

    def require_vectors(self, method: str, x: object, rows: Sequence[int]) -> None:
        """Checks what `body` or `packed_body` returned, of a target that is text.

        Args:
            method: which of them.
            x: what it returned.
            rows: [batch, target_length] of `body`, [tokens] of `packed_body`.

        Raises:
            UserError: these are not vectors of the size of the embedding, one for each of the rows.
        """
        size, axes = self.modality(self.target).size, len(rows) + 1
        help = "let it return one tensor, with a vector for each token"
        if not isinstance(x, Tensor):
            found = f"a {type(x).__name__}"
        elif x.dim() != axes:
            found = f"a tensor of {x.dim()} axes"
        elif x.size(-1) != size:
            found = f"vectors of {x.size(-1)} numbers"
            help = f"{size} is the size of the embedding, with which logits are a product"
        elif x.shape[:-1] != rows:
            found = "other rows"
            help = "let it return a vector for each token of that text, in its order, and of nothing else"
        else:
            return
        wanted = "batch, length" if len(rows) == 2 else "tokens"
        raise UserError(
            f"{method} of {type(self).__name__} returned {found}, not [{wanted}, hidden] of '{self.target}', hidden = "
            f"{size}",
            help=help,
        )

    def initialize(self, batches: Iterable[Batch]) -> None:
        """Sets the parameters and buffers that follow from the training data, if there are any.

        Called before the first step of a run, without gradients.

        Args:
            batches: every training example once, on the model's device; read as they are asked for.
        """

    def loss(self, logits: Tensor, batch: Batch, *, label_smoothing: float) -> LossTerms:
        """Sums of loss and labels over the batch."""
        return self.modality(self.target).loss(logits, batch[self.target], label_smoothing=label_smoothing)

    def correct(self, logits: Tensor, batch: Batch) -> Tensor:
        """How many labels of the batch the logits rank first, []."""
        return self.modality(self.target).correct(logits, batch[self.target])

    def count(self, batch: Mapping[str, np.ndarray]) -> int:
        """How many labels the batch has: the denominator of its loss."""
        return self.modality(self.target).count(batch[self.target])

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
            memory: what `encode` returned; see `takes_past`.
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


def _module_names(features: Mapping[str, FeatureSpec]) -> dict[str, str]:
    """Feature -> the name of its modality: of text that of its vocabulary, of others its own, as torch allows it."""
    taken = {spec.vocabulary for spec in features.values() if spec.modality is Modality.SYMBOL}
    names: dict[str, str] = {}
    of_torch = dir(nn.ModuleDict())
    for name, spec in features.items():
        if spec.modality is Modality.SYMBOL:
            names[name] = spec.vocabulary
            continue
        plain = re.sub(r"\W", lambda found: f"_{ord(found[0]):x}_", name)
        while plain in taken or plain in of_torch:
            plain += "_"
        taken.add(plain)
        names[name] = plain
    return names
