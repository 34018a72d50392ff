"""Batches of several processes: dealt out whole, and with a position that any number of processes can go on from."""

from __future__ import annotations

import numpy as np
import pytest

from t2tdeploy.problems.batching import BatchStream, Indices, Lengths, Position
from t2tdeploy.training.engine import StepMetrics
from t2tdeploy.training.meter import Meter
from t2tdeploy.training.shared_stream import SharedStream
from tests.models.tiny import features

FEATURES = features(30)
SETTINGS = {"batch_size": 40, "max_length": 12, "seed": 5}


class Rows:
    """Examples of random lengths; a batch is the numbers of its examples, each as often as its length."""

    def __init__(self, count: int = 60) -> None:
        draw = np.random.default_rng(0)
        self.lengths: dict[str, Lengths] = {
            name: draw.integers(1, 12, count).astype(np.int32) for name in ("inputs", "targets")
        }

    def __len__(self) -> int:
        return len(self.lengths["inputs"])

    def batch(self, indices: Indices) -> dict[str, Indices]:
        return {name: self._padded(lengths, indices) for name, lengths in self.lengths.items()}

    @staticmethod
    def _padded(lengths: Lengths, indices: Indices) -> Indices:
        columns = np.arange(lengths[indices].max(initial=0))
        return np.where(columns < lengths[indices][:, None], indices[:, None] + 1, 0)


def streams(world_size: int, position: Position = Position()) -> list[SharedStream]:  # noqa: B008
    return [
        SharedStream(Rows(), rank=rank, world_size=world_size, position=position, **SETTINGS)
        for rank in range(world_size)
    ]


def examples(batch: dict[str, Indices]) -> list[int]:
    return [int(row[0]) for row in batch["inputs"]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_from_the_start_the_batches_are_those_of_the_plan_of_each_rank(world_size: int) -> None:
    for rank, stream in enumerate(streams(world_size)):
        plain = BatchStream(Rows(), rank=rank, world_size=world_size, **SETTINGS)
        for _ in range(40):
            found, expected = next(stream), next(plain)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
            assert stream.position.epoch == plain.position.epoch


@pytest.mark.parametrize("counts", [(2, 3), (4, 1), (3, 2, 4)])
def test_a_change_of_their_number_loses_and_repeats_no_example(counts: tuple[int, ...]) -> None:
    position = Position()
    seen: list[int] = []
    for count in counts:
        together = streams(count, position)
        for _ in range(3):
            if together[0].position.epoch == 0:
                seen += [example for stream in together for example in examples(next(stream))]
        position = together[0].position
        assert all(stream.position == position for stream in together)
    together = streams(2, position)
    while together[0].position.epoch == 0:
        seen += [example for stream in together for example in examples(next(stream))]
    assert sorted(seen) == list(range(1, 61))


def test_rates_are_those_of_all_processes() -> None:
    together = streams(4)
    batches = [[next(stream) for _ in range(8)] for stream in together]  # to the end of an epoch and beyond
    assert any(not batch["inputs"].size for of_rank in batches for batch in of_rank)
    tokens = [sum(int(np.count_nonzero(ids)) for batch in of_rank for ids in batch.values()) for of_rank in batches]
    places = sum(ids.size for of_rank in batches for batch in of_rank for ids in batch.values())
    meter = Meter(FEATURES)
    meter.add(batches[0], StepMetrics(loss=1.0, labels=1, gradient_norm=1.0))
    rates = meter.flush()
    found = together[0].rates_of_all(rates)
    assert found["tokens_per_second"] == pytest.approx(rates["tokens_per_second"] * sum(tokens) / tokens[0])
    assert found["padding_share"] == pytest.approx(1 - sum(tokens) / places)
    assert found["loss"] == rates["loss"]


class Numbers:
    """Examples without text: a batch is the numbers of its examples."""

    lengths: dict[str, Lengths] = {}  # noqa: RUF012

    def __len__(self) -> int:
        return 23

    def batch(self, indices: Indices) -> dict[str, np.ndarray]:
        return {"numbers": indices.astype(np.float32)}


def _noise(batch: dict[str, np.ndarray], generator: np.random.Generator) -> dict[str, np.ndarray]:
    return {"numbers": batch["numbers"] + generator.random(len(batch["numbers"]))}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_augmentation_is_that_of_one_process_whatever_their_number(world_size: int) -> None:
    settings = {"batch_size": 4, "max_length": 1, "seed": 5, "augment": _noise}
    alone = BatchStream(Numbers(), **settings)
    expected = [next(alone)["numbers"].tolist() for _ in range(12)]  # two epochs
    found: list[list[float]] = []
    position = Position()
    while len(found) < len(expected):
        ranks = [
            SharedStream(Numbers(), rank=rank, world_size=world_size, position=position, **settings)
            for rank in range(world_size)
        ]
        found += [batch for stream in ranks if (batch := next(stream)["numbers"].tolist())]
        position = ranks[0].position
    assert found == expected


def test_without_text_rates_count_examples() -> None:
    stream = SharedStream(Numbers(), batch_size=4, max_length=1, seed=5, rank=0, world_size=2, position=Position())
    sizes = [len(next(stream)["numbers"]) for _ in range(3)]  # an epoch
    rates = stream.rates_of_all({"examples_per_second": 10.0})
    assert rates == {"examples_per_second": pytest.approx(10.0 * 23 / sum(sizes))}
