"""What is special to the engine on onnxruntime: memory in its place, masks of its own, what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from t2tdeploy.errors import TrainingError, UserError
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.engine import Batch, EngineState
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.graph.runner import GraphRunner

from .conftest import DROPOUT, NO_DROPOUT, TINY, batch, new_engine, new_model, parameters


def addresses(engine: GradientEngine) -> dict[str, tuple[int, int]]:
    """Where every parameter and its gradient lie."""
    found = {}
    for name, parameter in engine.model.named_parameters():
        assert parameter.grad is not None
        found[name] = (parameter.data_ptr(), parameter.grad.data_ptr())
    return found


@pytest.mark.parametrize("optimizer", ["adam", "adafactor", "sgd"])
def test_parameters_and_gradients_stay_where_they_are(data: ProblemData, optimizer: str) -> None:
    engine = new_engine("ort", data, optimizer=optimizer, clip_grad_norm=0.1, **NO_DROPOUT)
    places = addresses(engine)
    assert len({place for pair in places.values() for place in pair}) == 2 * len(places)
    engine.step([batch(data, 0, 1)], learning_rate=0.1)
    assert addresses(engine) == places
    engine.step([batch(data, 2), batch(data, 3, 4), batch(data, 5)], learning_rate=0.1)
    assert addresses(engine) == places
    engine.evaluate(batch(data, 6))
    engine.probe([batch(data, 7)] * 2)
    assert addresses(engine) == places
    engine.load(EngineState(*({name: value.clone() for name, value in part.items()} for part in engine.state())))
    assert addresses(engine) == places
    before = parameters(engine)
    engine.step([batch(data, 8)], learning_rate=0.1)  # and they are still what the graph reads and writes
    assert all(not torch.equal(value, before[name]) for name, value in parameters(engine).items() if value.dim() > 1)


def test_a_changed_parameter_is_seen_by_the_next_run(data: ProblemData) -> None:
    engine, other = (new_engine("ort", data, **NO_DROPOUT) for _ in range(2))
    other.step([batch(data, 0, 1)], learning_rate=0.1)
    with torch.no_grad():
        for mine, theirs in zip(engine.model.parameters(), other.model.parameters(), strict=True):
            mine.copy_(theirs)
    assert engine.evaluate(batch(data, 2)) == other.evaluate(batch(data, 2))


def test_every_batch_has_masks_of_its_own(data: ProblemData) -> None:
    with_dropout, exact = new_engine("ort", data, **DROPOUT), new_engine("ort", data, **NO_DROPOUT)
    rows = batch(data, 0, 1, 2)
    assert len({with_dropout.step([rows], learning_rate=0.0).loss for _ in range(5)}) == 5
    assert len({exact.step([rows], learning_rate=0.0).loss for _ in range(5)}) == 1
    alike = with_dropout.step([rows, rows], learning_rate=0.0).loss
    assert alike not in {with_dropout.step([rows], learning_rate=0.0).loss for _ in range(5)}


def test_the_masks_continue_from_the_state_and_from_a_torch_checkpoint_s_seed(data: ProblemData) -> None:
    rows = [batch(data, 0, 1)]
    first = new_engine("ort", data, **DROPOUT)
    state = EngineState(*({name: value.clone() for name, value in part.items()} for part in first.state()))
    assert "rng/masks" in state.optimizer
    expected = [first.step(rows, learning_rate=0.1) for _ in range(2)]
    first.load(state)
    assert [first.step(rows, learning_rate=0.1) for _ in range(2)] == expected
    theirs = new_engine("torch", data, **DROPOUT).state()
    assert "rng/masks" not in theirs.optimizer
    found = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        other = new_engine("ort", data, **DROPOUT)
        other.step(rows, learning_rate=0.1)
        other.load(theirs)
        found.append(other.step(rows, learning_rate=0.1))
    assert found[0] == found[1]


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"compile": True}])
def test_what_only_torch_can_do_is_refused(data: ProblemData, changes: dict[str, object]) -> None:
    hparams = TINY.replace(**changes)
    with pytest.raises(UserError, match=r"bfloat16|compile") as error:
        make_engine("ort", new_model(data, hparams), hparams, device=torch.device("cpu"))
    assert "--engine torch" in (error.value.help or "")


def test_memory_that_runs_out_is_told_with_the_batch(data: ProblemData, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: GraphRunner) -> None:
        raise MemoryError("Failed to allocate memory for requested buffer of size 9")

    engine = new_engine("ort", data, **NO_DROPOUT)
    rows = batch(data, 0, 1)
    size = f"2 × {rows['targets'].shape[1]} target tokens"
    monkeypatch.setattr(GraphRunner, "run", full)
    for attempt in (lambda: engine.step([rows], learning_rate=0.1), lambda: engine.evaluate(rows)):
        with pytest.raises(TrainingError, match=f"out of memory on a batch of {size}") as error:
            attempt()
        assert "batch_size" in (error.value.help or "")


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc")
def test_memory_does_not_grow_over_buckets_of_many_shapes(data: ProblemData) -> None:
    engine = new_engine("ort", data, **DROPOUT)
    random = np.random.default_rng(1)

    def bucket(rows: int, source: int, target: int) -> Batch:
        return {name: random.integers(3, 50, (rows, size)) for name, size in (("inputs", source), ("targets", target))}

    def train(buckets: int) -> None:
        for _ in range(buckets):
            engine.step([bucket(*random.integers([1, 1, 1], [65, 41, 41]))], learning_rate=1e-4)

    engine.step([bucket(64, 40, 40)], learning_rate=1e-4)
    train(60)
    before = resident_bytes()
    train(240)
    assert resident_bytes() - before < 40 * 2**20  # a single one of the large buckets takes as much
