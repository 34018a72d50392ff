"""Models of tables, after Estimator's premade ones: fully connected, linear, both together, and the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from t2tdeploy.columns.fitted import CrossedColumn, column_of
from t2tdeploy.errors import UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import HParams
from t2tdeploy.models.columns import ColumnInputs, LinearInputs
from t2tdeploy.models.layers import linear
from t2tdeploy.models.model import Batch, Model
from t2tdeploy.models.tabular_hparams import ACTIVATIONS, DnnHParams, LinearHParams
from t2tdeploy.registry import register_model, snake_case

_CLASSES = (Modality.CLASS_LABEL, Modality.MULTI_LABEL)
_INPUTS = (Modality.REAL, Modality.CATEGORY)


class TabularModel(Model):
    """What models of tables share: `body` gets the features as they are in a batch.

    Args:
        body_size: width of what `body` returns; None: it returns logits or values, and there is no output layer.
    """

    hparams_class: ClassVar[type[HParams]] = DnnHParams

    def __init__(self, hparams: HParams, features: Mapping[str, FeatureSpec], *, body_size: int | None) -> None:
        # Only the target has a modality: what the others are to a model is said in models/columns.py.
        columns = self.columns_of(features)
        super().__init__(hparams, {self.target: features[self.target]}, body_size=body_size or 1)
        self.features = dict(features)
        self.columns = columns
        if body_size is None:
            self.modality(self.target).output = nn.Identity()

    @classmethod
    def columns_of(cls, features: Mapping[str, FeatureSpec]) -> dict[str, FeatureSpec]:
        """What the target is predicted from.

        Raises:
            UserError: a feature that this model cannot treat, or none.
        """
        cls.require_features(features)
        name = snake_case(cls.__name__)
        columns = {feature: spec for feature, spec in features.items() if feature != cls.target}
        for feature, spec in columns.items():
            if spec.modality not in _INPUTS:
                raise UserError(
                    f"model {name} needs columns of numbers and categories, but '{feature}' is {spec.modality}",
                    help="choose another model: t2tdeploy list models shows what there is",
                )
        if not columns:
            raise UserError(f"model {name}: there is nothing to predict '{cls.target}' from")
        return columns

    @property
    def outputs(self) -> int:
        """How many logits or values an example has."""
        return prod(self.output_shape)

    def bottom(self, batch: Batch) -> dict[str, Tensor]:
        """The features of columns, as they are in the batch."""
        return {name: batch[name] for name in self.columns}


def _dense(sizes: list[int], hparams: DnnHParams) -> nn.Sequential:
    """dense -> activation -> dropout, again and again"""
    layers: list[nn.Module] = []
    for input_size, output_size in pairwise(sizes):
        layers += [linear(input_size, output_size, bias=True), getattr(nn, ACTIVATIONS[hparams.activation])()]
        if hparams.dropout:
            layers.append(nn.Dropout(hparams.dropout))
    return nn.Sequential(*layers)


class _Dnn(TabularModel):
    default_hparams_set = "dnn_small"

    def __init__(self, hparams: DnnHParams, features: Mapping[str, FeatureSpec]) -> None:
        inputs = ColumnInputs(self.columns_of(features))
        sizes = [inputs.size, *hparams.hidden_units]
        super().__init__(hparams, features, body_size=sizes[-1])
        self.inputs, self.layers = inputs, _dense(sizes, hparams)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> [batch, last of hidden_units]"""
        result: Tensor = self.layers(self.inputs(features))
        return result


@register_model
class DnnClassifier(_Dnn):
    """Fully connected layers over the columns of a table, to classes (Estimator's DNNClassifier)."""

    accepts: ClassVar[Mapping[str, tuple[Modality, ...]]] = {"targets": _CLASSES}


@register_model
class DnnRegressor(_Dnn):
    """Fully connected layers over the columns of a table, to numbers (Estimator's DNNRegressor)."""

    accepts: ClassVar[Mapping[str, tuple[Modality, ...]]] = {"targets": (Modality.REAL,)}


class _Linear(TabularModel):
    hparams_class = LinearHParams
    default_hparams_set = "linear_adagrad"

    def __init__(self, hparams: LinearHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features, body_size=None)
        self.weights = LinearInputs(self.columns, self.outputs)
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> logits [batch, outputs]"""
        logits: Tensor = self.weights(features) + self.bias
        return logits


@register_model
class LinearClassifier(_Linear):
    """A weight for each number and each category, to classes (Estimator's LinearClassifier)."""

    accepts: ClassVar[Mapping[str, tuple[Modality, ...]]] = {"targets": _CLASSES}


@register_model
class LinearRegressor(_Linear):
    """A weight for each number and each category, to numbers (Estimator's LinearRegressor)."""

    accepts: ClassVar[Mapping[str, tuple[Modality, ...]]] = {"targets": (Modality.REAL,)}


@register_model
class WideAndDeep(TabularModel):
    """A linear model of all columns and fully connected layers over those not crossed, added up (Cheng et al. 2016)."""

    default_hparams_set = "wide_and_deep_small"

    def __init__(self, hparams: DnnHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features, body_size=None)
        deep = {name: spec for name, spec in self.columns.items() if not isinstance(column_of(spec), CrossedColumn)}
        self.wide = LinearInputs(self.columns, self.outputs)
        self.inputs = ColumnInputs(deep or self.columns)
        sizes = [self.inputs.size, *hparams.hidden_units]
        self.layers, self.deep = _dense(sizes, hparams), linear(sizes[-1], self.outputs, bias=True)

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> logits [batch, outputs]"""
        logits: Tensor = self.wide(features) + self.deep(self.layers(self.inputs(features)))
        return logits


@register_model
class Baseline(TabularModel):
    """The same for every example: frequencies of classes, or the mean (Estimator's Baseline), for others to beat."""

    hparams_class = LinearHParams
    default_hparams_set = "baseline_adagrad"

    def __init__(self, hparams: LinearHParams, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__(hparams, features, body_size=None)
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    def body(self, features: dict[str, Tensor]) -> Tensor:
        """-> logits [batch, outputs]"""
        first = next(iter(features.values()))
        return self.bias.expand(first.size(0), self.outputs)
