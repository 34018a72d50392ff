"""The features of columns as one vector, for models of tables: numbers, indicators, embeddings; or as weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.columns.declare import INDICATOR_IDS, embedding_width
from t2tdeploy.columns.fitted import CategoricalColumn, column_of
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.layers import linear


class ColumnInputs(nn.Module):
    """Features of columns side by side.

    Args:
        features: REAL and CATEGORY ones; a category enters as its column says (`CategoricalColumn.embedding`), one
            without a column by its number of ids.

    Attributes:
        size: width of the vector.
    """

    def __init__(self, features: Mapping[str, FeatureSpec]) -> None:
        super().__init__()
        self._names = list(features)
        inputs = {_key(name): _input_of(spec) for name, spec in features.items()}
        self.columns = nn.ModuleDict(inputs)
        self.size = sum(module.size for module in inputs.values())

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """REAL [batch, *shape], CATEGORY [batch] -> [batch, size]"""
        return torch.cat([self.columns[_key(name)](features[name]) for name in self._names], dim=1)


class LinearInputs(nn.Module):
    """Features of columns times a weight each: what a linear model is, of categories one weight per id.

    The weights start at 0, as Estimator's linear models do; there is no bias.

    Args:
        outputs: how many sums there are.
    """

    def __init__(self, features: Mapping[str, FeatureSpec], outputs: int) -> None:
        super().__init__()
        self._names = list(features)
        self.columns = nn.ModuleDict({_key(name): _weights_of(spec, outputs) for name, spec in features.items()})

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """REAL [batch, *shape], CATEGORY [batch] -> [batch, outputs]"""
        parts = [self.columns[_key(name)](features[name]) for name in self._names]
        return torch.stack(parts).sum(0)


def _key(name: str) -> str:
    """Of a feature in a ModuleDict, which takes no dots and none of its own names, such as "type"."""
    return f"column_{name.replace('.', '_dot_')}"


def _input_of(spec: FeatureSpec) -> _Numbers | _Indicator | _Embedding:
    if spec.modality is Modality.REAL:
        return _Numbers(prod(spec.shape))
    width, unseen = _width(spec), _unseen(spec)
    return _Indicator(spec.vocab_size, unseen) if width is None else _Embedding(spec.vocab_size, width, unseen)


def _weights_of(spec: FeatureSpec, outputs: int) -> nn.Module:
    if spec.modality is Modality.REAL:
        return _NumberWeights(prod(spec.shape), outputs)
    return _IdWeights(spec.vocab_size, outputs)


def _width(spec: FeatureSpec) -> int | None:
    column = column_of(spec)
    if isinstance(column, CategoricalColumn):
        return column.embedding
    return None if spec.vocab_size <= INDICATOR_IDS else embedding_width(spec.vocab_size)


def _unseen(spec: FeatureSpec) -> tuple[int, ...]:
    column = column_of(spec)
    return column.unseen if isinstance(column, CategoricalColumn) else ()


class _Numbers(nn.Module):
    """As they are: [batch, *shape] -> [batch, size]"""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.size)


class _Indicator(nn.Module):
    """A 1 at the place of the id among 0s; only 0s for ids that no training row had: [batch] -> [batch, size]"""

    places: Tensor

    def __init__(self, ids: int, unseen: tuple[int, ...]) -> None:
        super().__init__()
        self.size = ids
        places = torch.arange(ids)
        places[list(unseen)] = -1
        self.register_buffer("places", places, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return (ids.unsqueeze(1) == self.places).float()


class _Embedding(nn.Module):
    """A vector per id, drawn from N(0, 1 / width) as by Estimator, 0 for ids that no training row had:
    [batch] -> [batch, size]"""

    def __init__(self, ids: int, width: int, unseen: tuple[int, ...]) -> None:
        super().__init__()
        self.size = width
        self.weight = nn.Parameter(torch.randn(ids, width) * width**-0.5)
        self.weight.data[list(unseen)] = 0.0

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class _NumberWeights(nn.Module):
    """[batch, *shape] -> [batch, outputs]"""

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.size = size
        self.map = linear(size, outputs)
        nn.init.zeros_(self.map.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.map(x.reshape(-1, self.size))
        return result


class _IdWeights(nn.Module):
    """[batch] -> [batch, outputs]"""

    def __init__(self, ids: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(ids, outputs))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)
