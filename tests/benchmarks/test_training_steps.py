"""What the training benchmarks train on, and the processes that do it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from training_batches import multi30k_lengths, random_batch, rotation, write_lengths
from training_steps import Job, Worker, save_batches
from worker_process import WorkerError

from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.problem import get_problem

TINY = "hidden_size=8,filter_size=8,num_heads=2,num_encoder_layers=1,num_decoder_layers=1"


def job(folder: Path, *, hparams: str = TINY, vocabulary: int = 20) -> Job:
    batches = rotation(multi30k_lengths(None), batch_size=64, count=2, vocabulary=vocabulary).batches
    save_batches(folder / "batches.npz", {"all": batches, "first": batches[:1]})
    return Job("torch", False, "transformer_tiny", hparams, str(folder / "batches.npz"), 1, vocabulary)


@pytest.mark.parametrize("batch_size", [64, 4096])
def test_a_rotation_keeps_to_the_budget_and_counts_its_pads(batch_size: int) -> None:
    found = rotation(multi30k_lengths(None), batch_size=batch_size, count=5)
    assert len(found.batches) == len(set(found.shapes)) == 5
    assert all(array.size <= batch_size for batch in found.batches for array in batch.values())
    places = sum(array.size for batch in found.batches for array in batch.values())
    assert found.padding_share == pytest.approx(1 - found.tokens / places)
    assert 0 < found.padding_share < 0.2


def test_a_random_batch_keeps_to_the_budget() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        batch = random_batch(generator, batch_size=64)
        assert all(0 < array.size <= 64 for array in batch.values())


def test_the_kept_lengths_are_those_of_the_data(tmp_path: Path) -> None:
    root = os.environ.get("T2TDEPLOY_TEST_DATA")
    if not root or not (Path(root) / "multi30k").is_dir():
        pytest.skip("needs T2TDEPLOY_TEST_DATA, a folder with multi30k/ as published")
    problem = get_problem("translate_ende_multi30k")
    options = problem.options_class.create({"vocab_size": 8000})
    generate(problem(options), data_dir=tmp_path, source_dir=Path(root) / "multi30k")
    write_lengths(multi30k_lengths(tmp_path), tmp_path / "found.json")
    kept = Path(__file__).parents[2] / "benchmarks" / "multi30k_lengths.json"
    assert (tmp_path / "found.json").read_text() == kept.read_text()


def test_a_worker_trains_when_told_to_and_rests_between(tmp_path: Path) -> None:
    with Worker(job(tmp_path)) as worker:
        assert worker.wait_until_ready()["engine_s"] > 0
        assert worker.first_pass("all") > 0
        worker.mark()
        assert len(worker.run("all")) == 2
        assert len(worker.run("first")) == 1
        memory = worker.memory()
    assert memory["peak_bytes"] > 2**20
    assert memory["device_bytes"] == 0


def test_a_worker_that_cannot_says_why(tmp_path: Path) -> None:
    with (
        Worker(job(tmp_path, hparams="num_heads=3")) as worker,
        pytest.raises(WorkerError, match="num_heads = 3 does not divide"),
    ):
        worker.wait_until_ready()


def test_a_worker_that_crashes_tells_its_last_words(tmp_path: Path) -> None:
    with Worker(job(tmp_path)) as worker:
        worker.wait_until_ready()
        with pytest.raises(WorkerError, match="status 1: KeyError: 'nobody'"):
            worker.run("nobody")


def test_a_worker_is_stopped_in_time(tmp_path: Path) -> None:
    with Worker(job(tmp_path), seconds=0.2) as worker, pytest.raises(WorkerError, match="not done within 0 s"):
        worker.wait_until_ready()
