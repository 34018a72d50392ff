"""Engines by name."""

from __future__ import annotations

import pytest

from t2tdeploy.errors import UnknownNameError
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.torch_engine import TorchEngine

from .conftest import TINY


def test_engines_are_made_by_name(data: ProblemData) -> None:
    assert isinstance(make_engine("torch", Transformer(TINY, data.features), TINY), TorchEngine)
    with pytest.raises(UnknownNameError, match="engine 'troch'") as error:
        make_engine("troch", Transformer(TINY, data.features), TINY)
    assert error.value.nearest == "torch"
