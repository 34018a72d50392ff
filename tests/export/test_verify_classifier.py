"""The check of an exported classifier or regressor: it passes the model's own graph, and refuses that of any other,
whatever the unit of the numbers and whatever classes are ruled out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from t2tdeploy.columns.fitted import NumericColumn
from t2tdeploy.errors import ParityError
from t2tdeploy.export.single_pass import export_single_pass
from t2tdeploy.export.verify_classifier import forward, verify_classifier
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.basic_fc import BasicFc
from t2tdeploy.models.model import Model
from t2tdeploy.models.tabular import DnnClassifier, DnnRegressor
from t2tdeploy.models.tabular_hparams import DnnHParams
from t2tdeploy.runtime import Session
from tests.models.labelled import LABEL, LABELS, NUMBER, TABLE, random_batch

ROWS = 32
SMALL = DnnHParams.create({"hidden_units": (8,)})
BATCH = random_batch({**TABLE, "targets": NUMBER}, ROWS)
SCALES = (1e-30, 1e-4, 1.0, 1e6)
OFFSETS = (0.0, -3.0, 1e4)
"""Of the target's mean from 0, in its deviations."""


class RulesOut(DnnClassifier):
    """Adds `mask` [classes] to its logits."""

    mask: Tensor

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return super().forward(batch) + self.mask


def graph_of(model: Model) -> Session:
    return Session(export_single_pass(model, BATCH).SerializeToString())


def passes(graph: Session, model: Model) -> bool:
    return verify_classifier(model, graph, BATCH).passed


def refuses(graph: Session, *others: Model) -> bool:
    """Whether the graph is found not to be that of any of these models."""
    for other in others:
        with pytest.raises(ParityError, match=r"(values|logits) by up to"):
            verify_classifier(other, graph, BATCH)
    return True


def changed(model: Model, change: Callable[[torch.nn.Linear], object]) -> Model:
    """A copy with another output layer."""
    other = deepcopy(model)
    with torch.no_grad():
        change(other.modality("targets").output)  # type: ignore[arg-type]
    return other


def negate(output: torch.nn.Linear) -> None:
    output.weight.neg_()
    output.bias.neg_()


def shift(by: float, place: int = 0) -> Callable[[torch.nn.Linear], object]:
    """Adds to one bias."""
    return lambda output: output.bias[place].add_(by)


def regressor(*targets: tuple[float, float]) -> Model:
    """A model of one number or of several, with means and deviations like these; its outputs are about 0.5 deviations
    from the mean."""
    shape = () if len(targets) == 1 else (len(targets),)
    mean, deviation = zip(*targets, strict=True)
    column = NumericColumn(reads="price", shape=shape, mean=mean, deviation=deviation)
    torch.manual_seed(1)
    spec = FeatureSpec("targets", Modality.REAL, shape=shape, column=column.to_json())
    return DnnRegressor(SMALL, {**TABLE, "targets": spec})


def of_unknown_spread() -> Model:
    torch.manual_seed(1)
    return BasicFc(BasicHParams.create({"hidden_size": 8}), {**TABLE, "targets": NUMBER})


def classifier(target: FeatureSpec, mask: list[float]) -> RulesOut:
    torch.manual_seed(1)
    model = RulesOut(SMALL, {**TABLE, "targets": target})
    model.register_buffer("mask", torch.tensor(mask), persistent=False)
    return model


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("offset", OFFSETS)
def test_numbers_are_compared_in_deviations_of_the_target(scale: float, offset: float) -> None:
    model = regressor((offset * scale, scale))
    graph = graph_of(model)
    assert passes(graph, model)
    assert refuses(graph, changed(model, negate), changed(model, shift(0.01)), changed(model, shift(-0.01)))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("offset", OFFSETS)
def test_numbers_of_an_unknown_spread_are_compared_in_that_of_the_answers(scale: float, offset: float) -> None:
    own = scale / float(forward(of_unknown_spread(), BATCH).std())

    def move(output: torch.nn.Linear) -> None:
        output.weight.mul_(own)
        output.bias.mul_(own).add_(offset * scale)

    model = changed(of_unknown_spread(), move)
    graph = graph_of(model)
    assert passes(graph, model)
    assert refuses(graph, *(changed(model, shift(by * scale)) for by in (0.01, -0.01)))


def test_each_of_several_numbers_has_its_own_unit() -> None:
    model = regressor((0.0, 1e-4), (1e6, 1e4), (0.0, 1.0))
    graph = graph_of(model)
    assert passes(graph, model)
    assert refuses(graph, *(changed(model, shift(0.01, place)) for place in range(3)))


@pytest.mark.parametrize("make", [lambda: regressor((1e3, 1.0)), of_unknown_spread])
@pytest.mark.parametrize("answer", [0.0, 7.0])
def test_a_model_that_always_answers_the_same(make: Callable[[], Model], answer: float) -> None:
    def same(output: torch.nn.Linear) -> None:
        output.weight.zero_()
        output.bias.fill_(answer)

    model = changed(make(), same)
    graph = graph_of(model)
    assert passes(graph, model)
    assert refuses(graph, changed(model, shift(0.1)))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_refused(broken: float) -> None:
    model = regressor((0.0, 1.0))
    without = changed(model, shift(broken))
    assert refuses(graph_of(model), without)
    assert refuses(graph_of(without), model, without)


@pytest.mark.parametrize("out", [-1e2, -1e9, torch.finfo(torch.float32).min, -float("inf")])
@pytest.mark.parametrize("target", [LABEL, LABELS], ids=["one", "several"])
def test_a_class_that_is_ruled_out_hides_no_difference_of_the_others(target: FeatureSpec, out: float) -> None:
    mask = [0.0, out, *[0.0] * (len(target.classes) - 2)]
    model = classifier(target, mask)
    graph = graph_of(model)
    assert passes(graph, model)
    assert refuses(graph, changed(model, shift(0.15)), changed(model, shift(-0.15)))
    others = classifier(target, [0.0] * len(mask)), classifier(target, mask[1:] + mask[:1])
    assert refuses(graph, *others)
    assert all(refuses(graph_of(other), model) for other in others)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(broken: float) -> None:
    model, without = (classifier(LABEL, [0.0, one, 0.0]) for one in (0.0, broken))
    assert refuses(graph_of(model), without)
    assert refuses(graph_of(without), model, without)


def test_an_example_of_which_all_classes_are_ruled_out_is_refused() -> None:
    none = classifier(LABEL, [-float("inf")] * 3)
    assert refuses(graph_of(none), none)
