"""Models as one function, as users of Estimators write them.

    def my_model(features, labels, mode, params):
        hidden = input_layer(features)
        for units in params["hidden_units"]:
            hidden = dense(hidden, units, activation=torch.relu)
        logits = dense(hidden, params["n_classes"])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return EstimatorSpec(predictions={"logits": logits}, loss=loss, metrics={"balanced": balanced_accuracy_score})

A function has no parameters of its own, so layers are made when it is called for the first time, and found again by
their order, or by name, whenever it is called after that (as TensorFlow's `tf.layers` and Haiku's `transform` do it).

We differ from tf.estimator in two ways: there is no `train_op`, for optimizer and learning rate are hyperparameters;
and metrics are functions of all labels and predictions, such as those of sklearn.metrics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.errors import UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import BasicHParams, HParams
from t2tdeploy.models.layers import linear
from t2tdeploy.models.modalities import LossTerms
from t2tdeploy.models.model import FIXED_OUTPUTS, Batch, Model
from t2tdeploy.registry import snake_case

Metric = Callable[[np.ndarray, np.ndarray], float]
"""From labels and predictions of all examples to a number: class ids, zeros and ones [examples, classes], or values."""


class Mode(StrEnum):
    """What a model function is called for."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


@dataclass(frozen=True)
class EstimatorSpec:
    """What a model function returns.

    Args:
        predictions: "logits" [batch, classes] of classes, "predictions" [batch, *shape] of numbers; others, [batch,
            ...], are handed on by `Estimator.predict`.
        loss: mean over the batch, []; not needed where there are no labels.
        metrics: what `evaluate` shall report beside its own.
    """

    predictions: Mapping[str, Tensor]
    loss: Tensor | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)


ModelFunction = Callable[[dict[str, Tensor], Tensor | None, Mode, dict[str, Any]], EstimatorSpec]


class FunctionHParams(BasicHParams):
    """The recipe of a model function, and what it is given as `params`."""

    params: dict[str, Any] = Field({}, description="what the function is given as params")


class _Scope:
    """The layers that a call of the function makes or finds.

    Args:
        building: whether layers may be made.
    """

    def __init__(self, layers: nn.ModuleDict, *, building: bool, training: bool) -> None:
        self.layers, self.building, self.training = layers, building, training
        self._counts: dict[str, int] = {}

    def get(self, kind: str, make: Callable[[], nn.Module], name: str | None) -> nn.Module:
        number = self._counts[kind] = self._counts.get(kind, -1) + 1
        key = name or (f"{kind}_{number}" if number else kind)
        if not key.isidentifier() or hasattr(nn.ModuleDict, key):
            raise UserError(f"a layer cannot be called '{key}'", help="choose a name of letters, digits and _")
        if key not in self.layers:
            if not self.building:
                raise UserError(
                    f"the model function asks for a layer '{key}' that it did not make before",
                    help="let it make the same layers at each call, in the same order, or give them names",
                )
            self.layers[key] = make().eval()
        return self.layers[key]


_scope: ContextVar[_Scope] = ContextVar("scope")


def layer(kind: str, make: Callable[[], nn.Module], *, name: str | None = None) -> nn.Module:
    """Any layer of torch, with its parameters: `layer("conv", lambda: nn.Conv2d(3, 16, 3))(x)`.

    Args:
        kind: what layers without a name are called, with a number behind it.
        make: makes the layer; called once.

    Raises:
        UserError: outside a model function, or the layer was not made before.
    """
    try:
        scope = _scope.get()
    except LookupError:
        raise UserError("layers without a module can only be made in a model function") from None
    return scope.get(kind, make, name)


def dense(
    x: Tensor, units: int, *, activation: Callable[[Tensor], Tensor] | None = None, name: str | None = None
) -> Tensor:
    """A linear map of the last axis, [..., size] -> [..., units], with a bias."""
    found: Tensor = layer("dense", lambda: linear(x.size(-1), units, bias=True), name=name)(x)
    return found if activation is None else activation(found)


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zeros in the place of a share `rate` of numbers, while training."""
    return F.dropout(x, rate, training=_scope.get().training)


def input_layer(features: Mapping[str, Tensor]) -> Tensor:
    """All features of an example as one vector, [batch, size]."""
    parts = [x.flatten(1) if x.dim() > 1 else x.unsqueeze(1) for x in features.values()]
    return torch.cat(parts, dim=1)


class _Last:
    """The outcome of the newest call of the function: its loss is asked for after its logits, in the same step.

    Not an attribute of the module itself, which must not seem to have state.
    """

    spec: EstimatorSpec | None = None


class FunctionModel(Model):
    """A model whose features come as in a batch (numbers as they are, categories as embeddings) to one function.

    Attributes:
        function: see `function_model`.
        metrics: what its evaluation reports.

    Raises:
        UserError: the function does not return what it must.
    """

    hparams_class: ClassVar[type[HParams]] = FunctionHParams
    accepts: ClassVar[Mapping[str, tuple[Modality, ...]]] = {"targets": FIXED_OUTPUTS}
    raw_numbers = True
    function: ClassVar[ModelFunction]

    def __init__(self, hparams: FunctionHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features, body_size=1)
        self.modality(self.target).output = nn.Identity()  # the function has its own
        self.params = hparams.params
        self.layers = nn.ModuleDict()
        self.metrics: Mapping[str, Metric] = {}
        self._last, self._building = _Last(), True
        with torch.no_grad():
            batch = {name: _zeros(spec) for name, spec in self.features.items()}
            for mode in Mode:
                spec = self._call(batch, mode)
                self._check(spec, mode)
                self.metrics = spec.metrics if mode is Mode.EVAL else self.metrics
        self._building = False

    def forward(self, batch: Batch) -> Tensor:
        """-> logits [batch, classes], or values [batch, *shape]"""
        mode = Mode.TRAIN if self.training else Mode.EVAL if self.target in batch else Mode.PREDICT
        self._last.spec = self._call(batch, mode)
        return self._output(self._last.spec)

    def loss(self, logits: Tensor, batch: Batch, *, label_smoothing: float) -> LossTerms:
        """The function's own, of the call that gave these logits."""
        del label_smoothing
        spec, self._last.spec = self._last.spec, None
        assert spec is not None, "loss is asked for once, after forward"
        assert spec.loss is not None, "checked when the model was made"
        examples = torch.ones(logits.size(0), device=logits.device).sum()
        return LossTerms(spec.loss.float() * examples, examples)

    def predictions(self, batch: Batch) -> dict[str, Tensor]:
        """All that the function predicts, with "logits" or "predictions"."""
        spec = self._call({name: x for name, x in batch.items() if name != self.target}, Mode.PREDICT)
        return dict(spec.predictions)

    def _call(self, batch: Batch, mode: Mode) -> EstimatorSpec:
        labels = None if mode is Mode.PREDICT else batch[self.target]
        token = _scope.set(_Scope(self.layers, building=self._building, training=self.training))
        try:
            return type(self).function(self.bottom(batch), labels, mode, dict(self.params))
        finally:
            _scope.reset(token)

    @property
    def _key(self) -> str:
        return "predictions" if self.task == "regress" else "logits"

    def _output(self, spec: EstimatorSpec) -> Tensor:
        found = spec.predictions[self._key]
        shape = self.output_shape
        return found.squeeze(-1) if not shape and found.dim() == 2 else found

    def _check(self, spec: Any, mode: Mode) -> None:
        name = f"model function {definition(type(self).function).__name__}"
        if not isinstance(spec, EstimatorSpec):
            raise UserError(f"{name} returned a {type(spec).__name__} for mode {mode}, not an EstimatorSpec")
        if self._key not in spec.predictions:
            raise UserError(
                f"{name} predicts {', '.join(spec.predictions) or 'nothing'}, but no '{self._key}'",
                help='return EstimatorSpec(predictions={"logits": …}) for classes, {"predictions": …} for numbers',
            )
        shape = list(self._output(spec).shape)
        if shape != [2, *self.output_shape]:
            raise UserError(
                f"{name}: its '{self._key}' of 2 examples have shape {shape} instead of {[2, *self.output_shape]}"
            )
        if mode is not Mode.PREDICT and (spec.loss is None or spec.loss.dim()):
            found = "none" if spec.loss is None else f"of shape {list(spec.loss.shape)}"
            raise UserError(
                f"{name}: its loss for mode {mode} is {found}; it must be one number, the mean of the batch"
            )


def function_model(function: ModelFunction) -> type[FunctionModel]:
    """The model of a function, of a partial of one, or of an object that is called."""
    origin = definition(function)
    name = origin.__name__.strip("<>")
    members = {"function": staticmethod(function), "__module__": origin.__module__, "__doc__": origin.__doc__}
    # The last is `GENERATED` of training/graph/description.py: the key of a graph has to see what the function is.
    return type(snake_case(name), (FunctionModel,), {**members, "__generated__": True})


def definition(function: Any) -> Any:
    """What has the name and the source of a model function: of a partial its function, of an object its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__name__") else type(function)


def _zeros(spec: FeatureSpec) -> Tensor:
    """A batch of 2 of a feature."""
    match spec.modality:
        case Modality.IMAGE:
            return torch.zeros(2, *spec.shape, dtype=torch.uint8)
        case Modality.REAL:
            return torch.zeros(2, *spec.shape)
        case Modality.MULTI_LABEL:
            return torch.zeros(2, len(spec.classes))
    return torch.zeros(2, dtype=torch.int64)
