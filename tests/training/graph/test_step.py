"""What is exported computes the model's own loss, by the fused one where that is the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t2tdeploy.models.modalities import LossTerms
from t2tdeploy.models.model import Batch
from t2tdeploy.training.graph.step import EvaluationStep, TrainingStep, constant_buffers, has_tied_softmax
from t2tdeploy.training.torch_engine import evaluation_sums
from tests.models.tiny import padded, random_sources, tiny_transformer
from tests.training.graph.parity import assert_equal
from tests.training.graph.small_model import VOCAB, Small

SCALE = 0.3


def batch() -> dict[str, Tensor]:
    return {"inputs": padded(random_sources(VOCAB, 1)), "targets": padded(random_sources(VOCAB, 2))}


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, [*named.values()]), strict=True))


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_fused_loss_is_the_models(smoothing: float, joint: bool) -> None:
    model = tiny_transformer(VOCAB, joint=joint)
    assert has_tied_softmax(model)
    expected = model.loss(model(batch()), batch(), label_smoothing=smoothing)
    scaled, numerator, denominator = TrainingStep(model, label_smoothing=smoothing)(
        torch.tensor(SCALE), *batch().values()
    )
    torch.testing.assert_close(numerator, expected.numerator, rtol=1e-5, atol=0)
    torch.testing.assert_close(scaled, expected.numerator * SCALE, rtol=1e-5, atol=0)
    assert denominator == expected.denominator
    found = {name: value.numpy() for name, value in gradients(model, scaled).items()}
    assert_equal(found, gradients(model, expected.numerator * SCALE))


class OwnTop(Small):
    def top(self, x: Tensor) -> Tensor:
        return super().top(x).tanh()


class OwnLoss(Small):
    def loss(self, logits: Tensor, batch: Batch, *, label_smoothing: float) -> LossTerms:
        terms = super().loss(logits, batch, label_smoothing=label_smoothing)
        return LossTerms(terms.numerator * 2, terms.denominator)


@pytest.mark.parametrize("model", [OwnTop(), OwnLoss()], ids=["top", "loss"])
def test_a_model_with_its_own_output_side_keeps_it(model: Small) -> None:
    assert not has_tied_softmax(model)
    step = TrainingStep(model.eval(), label_smoothing=0.1)
    _, numerator, _ = step(torch.tensor(1.0), *batch().values())
    torch.testing.assert_close(numerator, model.loss(model(batch()), batch(), label_smoothing=0.1).numerator)


def test_an_evaluation_step_is_the_torch_engines() -> None:
    model = tiny_transformer(VOCAB)
    with torch.no_grad():
        found = [value.item() for value in EvaluationStep(model)(*batch().values())]
    expected = evaluation_sums(model, {name: tensor.numpy() for name, tensor in batch().items()})
    assert found == pytest.approx([expected.loss, expected.labels, expected.correct])


def test_constants_are_the_buffers_that_no_checkpoint_holds() -> None:
    assert constant_buffers(Small()).keys() == {"ramp"}
