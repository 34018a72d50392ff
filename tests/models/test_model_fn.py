"""Model functions make their layers once, and are told what they must return."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2tdeploy.errors import UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.models.model_fn import EstimatorSpec, FunctionHParams, Mode, dense, function_model, input_layer, layer

FEATURES = {
    "size": FeatureSpec("size", Modality.REAL),
    "colour": FeatureSpec("colour", Modality.CATEGORY, vocab_size=5),
    "targets": FeatureSpec("targets", Modality.CLASS_LABEL, classes=("a", "b", "c")),
}
BATCH = {"size": torch.randn(4), "colour": torch.tensor([0, 1, 2, 4]), "targets": torch.tensor([0, 1, 2, 2])}


def make(function: Any, **params: Any) -> Any:
    return function_model(function)(FunctionHParams.create({"hidden_size": 6, "params": params}), FEATURES)


def two_layers(features: dict[str, Tensor], labels: Tensor | None, mode: Mode, params: dict[str, Any]) -> EstimatorSpec:
    assert (labels is None) == (mode is Mode.PREDICT)
    hidden = dense(input_layer(features), params["units"], activation=torch.tanh)
    logits = dense(hidden, 3)
    return EstimatorSpec({"logits": logits}, None if labels is None else F.cross_entropy(logits, labels))


def test_layers_are_made_once_and_found_again() -> None:
    model = make(two_layers, units=9)
    assert {name: tuple(values.shape) for name, values in model.layers.named_parameters()} == {
        "dense.weight": (9, 1 + 6),
        "dense.bias": (9,),
        "dense_1.weight": (3, 9),
        "dense_1.bias": (3,),
    }
    assert torch.equal(model(BATCH), model(BATCH))
    assert torch.equal(model(BATCH), model.eval()({name: x for name, x in BATCH.items() if name != "targets"}))


def test_the_loss_is_the_functions_own() -> None:
    model = make(two_layers, units=9)
    logits = model(BATCH)
    terms = model.loss(logits, BATCH, label_smoothing=0.3)
    torch.testing.assert_close(terms.numerator / terms.denominator, F.cross_entropy(logits, BATCH["targets"]))
    assert terms.denominator == 4


def test_modes_follow_training_and_labels() -> None:
    seen = []

    def listening(features: Any, labels: Any, mode: Mode, params: Any) -> EstimatorSpec:
        seen.append(mode)
        return two_layers(features, labels, mode, {"units": 2})

    model = make(listening)
    seen.clear()
    model.train()(BATCH)
    model.eval()(BATCH)
    model({"size": BATCH["size"], "colour": BATCH["colour"]})
    assert seen == [Mode.TRAIN, Mode.EVAL, Mode.PREDICT]


def returning(**spec: Any) -> Any:
    return lambda features, labels, mode, params: EstimatorSpec(**{"loss": torch.zeros(()), **spec})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda features, labels, mode, params: torch.zeros(2, 3), "returned a Tensor for mode train"),
        (returning(predictions={"classes": torch.zeros(2)}), "predicts classes, but no 'logits'"),
        (returning(predictions={"logits": torch.zeros(2, 4)}), r"have shape \[2, 4\] instead of \[2, 3\]"),
        (returning(predictions={"logits": torch.zeros(2, 3)}, loss=torch.zeros(2)), r"loss for mode train is of shape"),
        (returning(predictions={"logits": torch.zeros(2, 3)}, loss=None), "loss for mode train is none"),
    ],
)
def test_what_a_function_returns_is_checked(function: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(function)


def test_layers_have_a_place_and_a_name() -> None:
    with pytest.raises(UserError, match="only be made in a model function"):
        layer("norm", lambda: nn.LayerNorm(3))

    def growing(features: Any, labels: Any, mode: Mode, params: Any) -> EstimatorSpec:
        calls.append(mode)
        logits = dense(input_layer(features), 3, name=None if len(calls) <= 3 else "late")
        return EstimatorSpec({"logits": logits}, logits.mean())

    calls: list[Mode] = []
    model = make(growing)
    with pytest.raises(UserError, match="asks for a layer 'late' that it did not make before"):
        model(BATCH)
    for name in ("two words", "keys"):
        with pytest.raises(UserError, match="cannot be called"):
            make(lambda features, labels, mode, params, name=name: dense(input_layer(features), 3, name=name))
