"""Both engines are one for models that classify and regress, too: losses, gradients, buffers, logits, checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from t2tdeploy.features import Modality
from t2tdeploy.training.checkpoints import CheckpointStore, TrainingState
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine, size_of
from t2tdeploy.training.graph.environment import gradient_builders
from tests.models.labelled import CASES, Arrays, Case, random_batch

from .test_engine_parity import assert_same_gradients, gradients

of_every_case = pytest.mark.parametrize("name", CASES)


def engine(name: str, case: Case, builder: str = "auto") -> GradientEngine:
    # Decaying averages of every kind of state are in momentum's; what the update makes of it is tested elsewhere.
    hparams = case.hparams.replace(optimizer="sgd")
    return make_engine(name, case.make(), hparams, device=torch.device("cpu"), gradient_builder=builder)


def batches(case: Case) -> list[Arrays]:
    return [
        random_batch(case.features, rows, length=length, seed=rows) for rows, length in ((5, 7), (2, 1), (9, 3), (3, 9))
    ]


@pytest.mark.parametrize("builder", gradient_builders())
@of_every_case
def test_losses_gradients_buffers_and_logits_are_torch_s(name: str, builder: str) -> None:
    """Batches of several shapes, one by one and accumulated; evaluated before and after."""
    case = CASES[name]
    ort, reference = engine("ort", case, builder), engine("torch", case)
    some = batches(case)
    for step in ([some[0]], [some[1]], some):
        assert_same_gradients(gradients(ort, step), gradients(reference, step))
        found, expected = (of.step(step, learning_rate=0.0) for of in (ort, reference))
        assert found.labels == expected.labels == sum(len(batch["targets"]) for batch in step)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        for mine, theirs in zip(ort.model.buffers(), reference.model.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        evaluated, wanted = (of.evaluate(some[2]) for of in (ort, reference))
        assert evaluated.loss == pytest.approx(wanted.loss, rel=1e-5)
        assert evaluated[1:3] == wanted[1:3]
        np.testing.assert_allclose(evaluated.logits, wanted.logits, rtol=1e-4, atol=1e-5)


def test_running_statistics_move_in_training_and_decide_in_evaluation(tmp_path: Path) -> None:
    """They are in checkpoints, which go from one engine to the other; a probe leaves them as they were."""
    case = CASES["convolution"]
    trained, other = engine("ort", case), engine("torch", case)
    some = batches(case)
    before = trained.evaluate(some[0])
    trained.probe(some)
    assert trained.evaluate(some[0]).loss == before.loss
    for _ in range(20):
        trained.step(some, learning_rate=0.0)
    moved = trained.evaluate(some[0])
    assert abs(moved.loss - before.loss) > 1e-3
    store = CheckpointStore(tmp_path)
    store.save(trained.state(), TrainingState(step=20, epoch=0, batch=0))
    other.load(store.load(20)[0])
    assert other.evaluate(some[0]).loss == pytest.approx(moved.loss, rel=1e-5)
    # As training sees the batch, by its own statistics, which the running ones come close to.
    assert moved.loss / moved.labels == pytest.approx(trained.step(some[:1], learning_rate=0.0).loss, rel=0.3)


def test_pictures_may_come_in_any_order_of_memory() -> None:
    case = CASES["convolution"]
    reference, (some, *_) = engine("torch", case), batches(case)
    mirrored = {**some, "inputs": some["inputs"][:, :, ::-1]}
    copied = {**some, "inputs": mirrored["inputs"].copy()}
    assert reference.evaluate(mirrored).loss == reference.evaluate(copied).loss


def test_messages_name_what_fills_the_memory() -> None:
    image, text = CASES["convolution"], CASES["transformer_encoder"]
    assert size_of(image.make(), batches(image)) == "5 × 6 × 5 × 3 numbers of 'inputs'"
    assert size_of(text.make(), batches(text)) == "5 × 7 tokens of 'inputs'"
    assert size_of(text.make(), []) == "no examples"


def test_together_the_cases_have_every_modality() -> None:
    assert {spec.modality for case in CASES.values() for spec in case.features.values()} == {*Modality}
