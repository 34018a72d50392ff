"""Models of tables: what linear and crossed mean, what an unknown value changes, what a target's spread changes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from t2tdeploy.columns.declare import vocabulary
from t2tdeploy.columns.fit import fit_columns
from t2tdeploy.columns.values import raw_array
from t2tdeploy.errors import UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import HParams
from t2tdeploy.models.columns import ColumnInputs, LinearInputs
from t2tdeploy.models.model import Model
from t2tdeploy.models.tabular import Baseline, DnnClassifier, DnnRegressor, LinearClassifier, WideAndDeep
from t2tdeploy.models.tabular_hparams import DnnHParams, LinearHParams
from tests.models.labelled import LABEL, PRICE, SPREAD, TEXT
from tests.models.tables import TRAINING, batch_of, features_of, refuse


def made(model: type[Model], hparams: HParams, features: Mapping[str, FeatureSpec]) -> Model:
    torch.manual_seed(0)
    found = model(hparams, features)
    for parameter in found.parameters():
        parameter.data.normal_()
    return found.eval()


def test_columns_lie_side_by_side() -> None:
    features = features_of()
    inputs = ColumnInputs(features)
    batch = batch_of(features, TRAINING)
    found = inputs(batch).detach()
    assert found.shape == (4, inputs.size) == (4, 1 + 2 + 4 + 5 + 3 + 2)
    np.testing.assert_array_equal(found[:, 0], batch["age_number"])
    indicators = found[:, 3:12]
    assert set(indicators.flatten().tolist()) == {0.0, 1.0}
    assert indicators.sum(1).tolist() == [2, 2, 2, 2]


def test_values_that_no_training_row_had_have_no_influence() -> None:
    features = features_of()
    inputs = ColumnInputs({name: features[name] for name in ("city_value", "age_bucket")})
    unknown = inputs(batch_of(features, {"age": [None], "city": ["never seen"], "wide": [None]}))
    missing = inputs(batch_of(features, {"age": [None], "city": [None], "wide": [None]}))
    assert unknown.abs().sum() == missing.abs().sum() == 0
    embedded = vocabulary("city", embedding=4)
    spec = fit_columns([embedded], {"city": raw_array(embedded.raw[0], TRAINING["city"], refuse)})["city_value"]
    vectors = ColumnInputs({"city_value": spec})({"city_value": torch.arange(spec.vocab_size)})
    assert vectors.abs().sum(1).gt(0).tolist() == [False, True, True, True, False]


def test_a_linear_model_is_a_sum_of_weights() -> None:
    """The same as a matrix product with the indicators of all ids."""
    features = features_of()
    linear = LinearInputs(features, 3)
    for parameter in linear.parameters():
        parameter.data.normal_()
    batch = batch_of(features, TRAINING)
    expected = torch.zeros(4, 3)
    for name, module in linear.columns.items():
        (weight,) = module.parameters()
        x = batch[name.removeprefix("column_")]
        if x.dtype == torch.int64:
            expected += torch.nn.functional.one_hot(x, weight.size(0)).float() @ weight
        else:
            expected += x.reshape(4, -1) @ weight.t()
    torch.testing.assert_close(linear(batch), expected)


def test_linear_models_start_without_an_opinion() -> None:
    features = features_of(LABEL)
    model = LinearClassifier(LinearHParams.create({}), features)
    assert model(batch_of(features, TRAINING)).abs().sum() == 0


def test_what_is_wide_and_deep_is_the_sum_of_both_and_crosses_are_only_wide() -> None:
    features = features_of(LABEL)
    model = made(WideAndDeep, DnnHParams.create({"hidden_units": (8,)}), features)
    assert isinstance(model, WideAndDeep)
    batch = batch_of(features, TRAINING)
    logits = model(batch)
    wide = model.wide(batch)
    for parameter in model.wide.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(model(batch) + wide, logits)
    assert not any("cross" in name for name, _ in model.inputs.named_parameters())
    assert any("cross" in name for name, _ in model.wide.named_parameters())


def test_the_baseline_answers_the_same_whatever_it_is_asked() -> None:
    features = features_of(LABEL)
    logits = made(Baseline, LinearHParams.create({}), features)(batch_of(features, TRAINING))
    assert logits.shape == (4, 3)
    assert len({tuple(row) for row in logits.tolist()}) == 1


def test_an_example_s_answer_does_not_depend_on_its_batch() -> None:
    features = features_of(LABEL)
    model = made(DnnClassifier, DnnHParams.create({"hidden_units": (8, 8)}), features)
    batch = batch_of(features, TRAINING)
    alone = torch.cat([model({name: x[row : row + 1] for name, x in batch.items()}) for row in range(4)])
    torch.testing.assert_close(alone, model(batch))


def test_a_quantity_is_learned_in_deviations_and_answered_in_its_own_unit() -> None:
    features, plain = features_of(PRICE), features_of(FeatureSpec("targets", Modality.REAL))
    scaled, other = (made(DnnRegressor, DnnHParams.create({}), found) for found in (features, plain))
    batch = batch_of(features, TRAINING)
    (mean,), (deviation,) = SPREAD.mean, SPREAD.deviation
    torch.testing.assert_close(scaled(batch), other(batch) * deviation + mean)
    labels = torch.tensor([100.0, 200.0, 300.0, 150.0])
    loss = scaled.loss(scaled(batch), {"targets": labels}, label_smoothing=0.0)
    expected = other.loss(other(batch), {"targets": (labels - mean) / deviation}, label_smoothing=0.0)
    torch.testing.assert_close(loss.numerator, expected.numerator)
    assert loss.denominator == expected.denominator


@pytest.mark.parametrize(
    ("model", "features", "message"),
    [
        (DnnClassifier, {"inputs": TEXT, "targets": LABEL}, "needs columns of numbers and categories, but 'inputs' is"),
        (DnnClassifier, {"targets": PRICE}, "needs class_label or multi_label as 'targets', which here is real"),
        (DnnRegressor, {"targets": LABEL}, "needs real as 'targets', which here is class_label"),
        (DnnClassifier, {"targets": LABEL}, "there is nothing to predict 'targets' from"),
        (WideAndDeep, {"targets": LABEL}, "there is nothing to predict 'targets' from"),
    ],
)
def test_what_models_refuse(model: type[Model], features: dict[str, FeatureSpec], message: str) -> None:
    with pytest.raises(UserError) as caught:
        model(DnnHParams.create({}), features)
    assert message in str(caught.value)


def test_a_feature_may_be_called_as_anything() -> None:
    features = {
        name: FeatureSpec(name, Modality.CATEGORY, vocab_size=3) for name in ("type", "a.b", "keys", "x y", "training")
    }
    model = made(LinearClassifier, LinearHParams.create({}), {**features, "targets": LABEL})
    assert model({name: torch.tensor([1]) for name in features}).shape == (1, 3)
