"""What features become, what models make of them, and what that costs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from t2tdeploy.errors import SettingsError, UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.basic_fc import BasicFc
from t2tdeploy.models.modalities import make_modality, require_label_smoothing, soft_target_entropy
from t2tdeploy.models.model import Model
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_encoder import TransformerEncoder
from t2tdeploy.models.transformer_hparams import transformer_encoder_tiny, transformer_tiny

from .labelled import CASES, COLUMNS, IMAGE, LABEL, LABELS, NUMBER, NUMBERS, TEXT, Case, random_array, random_batch

TARGETS = {"label": LABEL, "labels": LABELS, "numbers": NUMBERS, "number": NUMBER}


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_example_is_the_same_alone_and_in_any_batch(case: Case) -> None:
    model = case.make().eval()
    arrays = random_batch(case.features, 5)
    together = model(tensors(arrays))
    assert together.shape == (5, *model.output_shape)
    for row in range(5):
        alone = {name: array[row : row + 1] for name, array in arrays.items()}
        for name, spec in case.features.items():
            if spec.modality is Modality.SYMBOL:
                alone[name] = alone[name][:, : np.count_nonzero(alone[name])]
        torch.testing.assert_close(model(tensors(alone))[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_to_be_predicted_is_not_looked_at(case: Case) -> None:
    model, arrays = case.make().eval(), tensors(random_batch(case.features, 3))
    expected = model(arrays)
    del arrays["targets"]
    torch.testing.assert_close(model(arrays), expected)


@pytest.mark.parametrize("spec", TARGETS.values(), ids=TARGETS.keys())
def test_the_denominator_is_what_the_host_counts(spec: FeatureSpec) -> None:
    modality = make_modality(spec, hidden_size=4, body_size=5)
    labels = random_array(spec, 6, 1, np.random.default_rng(0))
    logits = modality.top(torch.randn(6, 5))
    terms = modality.loss(logits, torch.from_numpy(labels), label_smoothing=0.1)
    assert terms.denominator == modality.count(labels) == 6


def test_losses_are_torch_s_without_smoothing() -> None:
    random, x = np.random.default_rng(1), torch.randn(6, 5)
    expected = {
        "label": lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum"),
        "labels": lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"),
        "numbers": lambda values, labels: F.mse_loss(values, labels, reduction="sum") / 2,  # numbers of an example
        "number": lambda values, labels: F.mse_loss(values, labels, reduction="sum"),
    }
    for name, spec in TARGETS.items():
        modality = make_modality(spec, hidden_size=4, body_size=5)
        logits, labels = modality.top(x), torch.from_numpy(random_array(spec, 6, 1, random))
        found = modality.loss(logits, labels, label_smoothing=0.0).numerator
        torch.testing.assert_close(found, expected[name](logits, labels))


@pytest.mark.parametrize("spec", [LABEL, LABELS], ids=["label", "labels"])
def test_smoothing_costs_nothing_where_the_prediction_is_the_soft_target(spec: FeatureSpec) -> None:
    modality, smoothing = make_modality(spec, hidden_size=4, body_size=5), 0.2
    labels = torch.from_numpy(random_array(spec, 4, 1, np.random.default_rng(2)))
    if spec is LABEL:
        hot = F.one_hot(labels, 3)
        perfect = torch.log(hot * (1 - smoothing) + (1 - hot) * smoothing / 2)
    else:
        perfect = torch.logit(labels * (1 - smoothing) + (1 - labels) * smoothing)
    assert modality.loss(perfect, labels, label_smoothing=smoothing).numerator == pytest.approx(0.0, abs=1e-5)
    sure = modality.loss(perfect * 5, labels, label_smoothing=smoothing).numerator
    assert sure > soft_target_entropy(smoothing, 2) / 10


@pytest.mark.parametrize(("spec", "most"), [(LABEL, 2 / 3), (TEXT, 29 / 30), (LABELS, 0.5)])
def test_smoothing_may_go_as_far_as_it_leaves_the_label_the_likeliest(spec: FeatureSpec, most: float) -> None:
    require_label_smoothing(spec, most)
    with pytest.raises(SettingsError, match=r"label_smoothing = 0[.]\d+: .* at most 0[.]\d+") as error:
        require_label_smoothing(spec, most + 0.01)
    assert spec.name in error.value.message
    modality = make_modality(spec, hidden_size=4, body_size=None if spec is TEXT else 5)
    labels = torch.from_numpy(random_array(spec, 4, 3, np.random.default_rng(2)))
    logits = torch.zeros(*labels.shape, TEXT.vocab_size) if spec is TEXT else torch.zeros(4, len(spec.classes))
    loss = modality.loss(logits, labels, label_smoothing=most).numerator
    assert loss == pytest.approx(0.0, abs=1e-4)  # of what knows nothing: no label is likelier than another


def test_there_is_nothing_to_smooth_of_numbers_and_of_one_class() -> None:
    require_label_smoothing(FeatureSpec("targets", Modality.REAL), 0.99)
    require_label_smoothing(replace(LABEL, classes=("only",)), 0.99)


def test_correct_counts_class_zero_and_whole_sets_of_labels() -> None:
    label, labels = (make_modality(spec, hidden_size=4, body_size=5) for spec in (LABEL, LABELS))
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    assert label.correct(logits, torch.tensor([0, 1])) == 1
    some = torch.tensor([[2.0, -1.0, -1.0, 0.5], [2.0, -1.0, -1.0, 0.5]])
    assert labels.correct(some, torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])) == 1


def test_pixels_are_from_minus_one_to_one_with_channels_first() -> None:
    image = make_modality(IMAGE, hidden_size=4, body_size=None)
    pixels = torch.zeros(2, *IMAGE.shape, dtype=torch.uint8)
    pixels[0, 1, 2, 0] = 255
    found = image.bottom(pixels)
    assert found.shape == (2, 3, 6, 5)
    assert (found[0, 0, 1, 2], found[1].max(), found.dtype) == (1.0, -1.0, torch.float32)


def test_a_mean_of_positions_leaves_padding_out() -> None:
    class FirstOfBody(Model):
        def body(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
            return features["inputs"]

    model = FirstOfBody(BasicHParams.create({"hidden_size": 4}), {"inputs": TEXT, "targets": LABEL})
    ids = torch.tensor([[5, 6, 0, 0]])
    embedded = model.modality("inputs").bottom(ids)
    expected = model.top(embedded[:, :2].mean(1))
    torch.testing.assert_close(model({"inputs": ids}), expected)


def test_positions_that_nobody_knows_are_refused() -> None:
    class Halves(Model):
        def body(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
            return features["inputs"][:, ::2]

    model = Halves(BasicHParams.create({"hidden_size": 4}), {"inputs": TEXT, "targets": LABEL})
    with pytest.raises(UserError, match="model halves returned 3 axes"):
        model({"inputs": torch.ones(2, 6, dtype=torch.int64)})


def test_names_of_columns_are_free() -> None:
    features = {**COLUMNS, "a.b": FeatureSpec("a.b", Modality.CATEGORY, vocab_size=4), "targets": LABEL}
    features["a_2e_b"] = FeatureSpec("a_2e_b", Modality.CATEGORY, vocab_size=5)
    model = BasicFc(BasicHParams.create({"hidden_size": 4}), features)
    assert [model.modality(name).weight.shape[0] for name in ("a.b", "a_2e_b")] == [4, 5]
    assert model(tensors(random_batch(features, 2))).shape == (2, 3)


def test_a_model_says_which_features_it_cannot_treat() -> None:
    with pytest.raises(UserError, match="model transformer needs symbol as 'targets', which here is class_label"):
        Transformer(transformer_tiny(), {"inputs": TEXT, "targets": LABEL})
    with pytest.raises(UserError, match=r"model transformer_encoder needs a feature 'inputs'; .*: width"):
        TransformerEncoder(transformer_encoder_tiny(), {**COLUMNS, "targets": LABEL})
    with pytest.raises(UserError, match="needs symbol or class_label or multi_label or real as 'targets'"):
        Model(BasicHParams.create({}), {"inputs": TEXT, "targets": FeatureSpec("targets", Modality.IMAGE)})
    one = FeatureSpec("targets", Modality.CLASS_LABEL, classes=("only",))
    with pytest.raises(UserError, match="'targets' has 1 classes"):
        BasicFc(BasicHParams.create({}), {"inputs": TEXT, "targets": one})


def test_entropy_of_two_is_that_of_a_coin() -> None:
    assert soft_target_entropy(0.5, 2) == pytest.approx(math.log(2))
