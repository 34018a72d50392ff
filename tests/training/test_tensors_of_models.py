"""Parameters and buffers of any order of memory train by graphs, too; those of numbers that graphs lack are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from t2tdeploy.errors import OperationalError, UserError
from t2tdeploy.training.engine import Batch
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.graph import obtain
from tests.training.graph.small_model import HPARAMS, VOCAB, Small


class Scaled(Small):
    """Another tensor is multiplied in."""

    extra: Tensor

    def body(self, features: dict[str, Tensor]) -> Tensor:
        return super().body(features) * self.extra.float()


def with_buffer(values: Tensor, *, persistent: bool = True) -> Scaled:
    model = Scaled()
    model.register_buffer("extra", values, persistent=persistent)
    return model


def batch() -> Batch:
    random = np.random.default_rng(1)
    return {name: random.integers(3, VOCAB, (4, 5)) for name in Small().features}


def engine(name: str, model: Small) -> GradientEngine:
    return make_engine(name, model, HPARAMS, device=torch.device("cpu"))


def in_columns() -> Small:
    model = Small()
    model.inner.weight.data = model.inner.weight.data.t().contiguous().t()
    return model


_STRANGE = {
    "a parameter in columns": in_columns,
    "a buffer of every other place": lambda: with_buffer(torch.linspace(0.5, 2, 16)[::2]),
    "a constant of bfloat16": lambda: with_buffer(torch.linspace(0.5, 2, 8).bfloat16(), persistent=False),
    "a constant of float64": lambda: with_buffer(torch.linspace(0.5, 2, 8).double(), persistent=False),
}


@pytest.mark.parametrize("made", _STRANGE)
def test_they_train_as_by_torch(made: str) -> None:
    models = {name: _STRANGE[made]() for name in ("ort", "torch")}
    parameters = [*models["ort"].parameters()]
    losses = {}
    for name, model in models.items():
        of = engine(name, model)
        losses[name] = [of.step([batch()], learning_rate=0.1).loss for _ in range(3)] + [of.evaluate(batch()).loss]
    assert losses["ort"] == pytest.approx(losses["torch"], rel=1e-5)
    assert all(mine is theirs for mine, theirs in zip(parameters, models["ort"].parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int16, torch.bfloat16])
def test_other_numbers_are_refused_by_name_before_a_graph_is_built(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtain, "_build", lambda *_: pytest.fail("it is built"))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=f"'extra' of the model is {name}; engine ort has .* float32") as caught:
        engine("ort", with_buffer(torch.ones(8, dtype=dtype)))
    assert "--engine torch" in str(caught.value.help)


class Counting(Scaled):
    def body(self, features: dict[str, Tensor]) -> Tensor:
        if self.training:
            self.extra += 1
        return super().body(features)


def test_what_is_no_constant_after_all_is_refused_by_name() -> None:
    model = Counting()
    model.register_buffer("extra", torch.ones(8, dtype=torch.int16), persistent=False)
    with pytest.raises(UserError, match="'extra' of the model is int16"):
        engine("ort", model)


def test_a_view_of_another_parameter_in_another_order_is_refused() -> None:
    """In memory of its own it would not change with it."""
    model = Small()
    model.view = nn.Buffer(model.inner.weight.data.t())
    with pytest.raises(UserError, match="'view' of the model is a view of another parameter") as caught:
        engine("ort", model)
    assert "--engine torch" in str(caught.value.help)


class Narrow(Small):
    def body(self, features: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().body(features).float()


def test_numbers_in_between_that_onnxruntime_cannot_compute_are_named() -> None:
    with pytest.raises(OperationalError, match=r"part of which is in bfloat16, as within torch\.autocast") as caught:
        engine("ort", Narrow())
    assert "--engine torch" in str(caught.value.help)
