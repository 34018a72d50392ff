"""Laws of the batch plan: coverage, token budget, independence of the world size, exact resumption."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.errors import InputError
from t2tdeploy.problems.batching import (
    BatchStream,
    Position,
    bucket_boundaries,
    example_lengths,
    plan_epoch,
    plan_evaluation,
)
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem

LENGTHS = st.lists(st.integers(1, 80), max_size=300).map(lambda lengths: np.array(lengths, np.int32))
SETTINGS = settings(max_examples=60)


def padded_tokens(lengths, batch) -> int:
    return len(batch) * int(lengths[batch].max(initial=0))


@given(st.integers(1, 3000))
@SETTINGS
def test_boundaries_grow_by_a_tenth(max_length):
    boundaries = bucket_boundaries(max_length)
    assert all(boundary < max_length for boundary in boundaries)
    assert all(after == max(before + 1, int(before * 1.1)) for before, after in pairwise(boundaries))
    assert boundaries[:1] == ([8] if max_length > 8 else [])


@given(LENGTHS, st.integers(1, 300), st.integers(1, 90), st.integers(0, 5), st.integers(1, 5))
@SETTINGS
def test_an_epoch_has_every_example_once_over_all_ranks(lengths, batch_size, max_length, epoch, world_size):
    plans = [
        plan_epoch(
            {"inputs": lengths},
            batch_size=batch_size,
            max_length=max_length,
            seed=1,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    seen = np.concatenate([np.empty(0, int), *(batch for plan in plans for batch in plan.batches)])
    assert sorted(seen) == np.flatnonzero(lengths <= max_length).tolist()
    assert plans[0].skipped.tolist() == np.flatnonzero(lengths > max_length).tolist()
    assert len({len(plan.batches) for plan in plans}) == 1
    empty = [[step for step, batch in enumerate(plan.batches) if not len(batch)] for plan in plans]
    assert all(steps in ([], [len(plans[0].batches) - 1]) for steps in empty)


@given(LENGTHS, st.integers(1, 300), st.integers(1, 90))
@SETTINGS
def test_no_batch_exceeds_the_token_budget_but_single_examples(lengths, batch_size, max_length):
    plan = plan_epoch({"inputs": lengths}, batch_size=batch_size, max_length=max_length, seed=0, epoch=0)
    for batch in [*plan.batches, *plan_evaluation(lengths, batch_size=batch_size)]:
        assert padded_tokens(lengths, batch) <= batch_size or len(batch) == 1


@given(LENGTHS, st.integers(20, 300), st.integers(0, 3), st.integers(2, 5))
@SETTINGS
def test_a_step_is_the_same_set_for_any_world_size(lengths, batch_size, epoch, world_size):
    def plan(rank, world_size):
        return plan_epoch(
            {"inputs": lengths},
            batch_size=batch_size,
            max_length=80,
            seed=3,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
        ).batches

    alone = plan(0, 1)
    ranks = [plan(rank, world_size) for rank in range(world_size)]
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    for mine, theirs in zip_longest(alone, together, fillvalue=np.empty(0, int)):
        assert mine.tolist() == theirs.tolist()


@given(LENGTHS, st.integers(1, 300))
@SETTINGS
def test_padding_share_counts_the_pads_of_all_features(lengths, batch_size):
    features = {"inputs": lengths, "targets": lengths[::-1]}
    plan = plan_epoch(features, batch_size=batch_size, max_length=60, seed=0, epoch=0, rank=0)
    padded = sum(padded_tokens(side, batch) for side in features.values() for batch in plan.batches)
    tokens = sum(int(side[batch].sum()) for side in features.values() for batch in plan.batches)
    assert plan.padding_share == pytest.approx((padded - tokens) / padded if padded else 0)


def test_padding_share_is_that_of_the_arrays_the_stream_gives(make_problem, tmp_path):
    generate(make_problem("toy_pairs"), data_dir=tmp_path / "data", source_dir=tmp_path)
    stream = BatchStream(
        open_problem("toy_pairs", tmp_path / "data").split("train"), batch_size=500, max_length=256, seed=0
    )
    share = stream.plan.padding_share
    arrays = [array for _ in stream.plan.batches[:] for array in next(stream).values()]
    pads, places = sum(int((array == 0).sum()) for array in arrays), sum(array.size for array in arrays)
    assert 0 < share == pytest.approx(pads / places)


@given(LENGTHS, st.integers(1, 300))
@SETTINGS
def test_evaluation_has_every_example_once_longest_first(lengths, batch_size):
    batches = plan_evaluation(lengths, batch_size=batch_size)
    order = np.concatenate([np.empty(0, int), *batches])
    assert sorted(order) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()
    assert all(len(batch) for batch in batches)


def test_seed_and_epoch_shuffle_and_nothing_else_does():
    lengths = np.random.default_rng(0).integers(1, 80, 500).astype(np.int32)

    def flat(seed, epoch):
        plan = plan_epoch({"inputs": lengths}, batch_size=200, max_length=80, seed=seed, epoch=epoch)
        return np.concatenate(plan.batches).tolist()

    assert flat(1, 2) == flat(1, 2)
    assert len({tuple(flat(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_buckets_cut_the_padding_of_a_plain_shuffle():
    lengths = np.clip(np.random.default_rng(0).lognormal(3.2, 0.6, 5000), 1, 200).astype(np.int32)
    plan = plan_epoch({"inputs": lengths}, batch_size=4096, max_length=200, seed=0, epoch=0)
    shuffled = np.random.default_rng(1).permutation(len(lengths)).reshape(-1, 50)
    plain = 1 - lengths.sum() / sum(padded_tokens(lengths, batch) for batch in shuffled)
    assert plan.padding_share < 0.1 < plain


def test_leftovers_of_buckets_do_not_make_small_batches():
    lengths = np.random.default_rng(0).integers(1, 80, 3000).astype(np.int32)
    plan = plan_epoch({"inputs": lengths}, batch_size=320, max_length=80, seed=0, epoch=0)
    assert sum(len(batch) < 320 // 80 for batch in plan.batches) <= 1
    fill = [padded_tokens(lengths, batch) / 320 for batch in plan.batches]
    assert np.mean(fill) > 0.85


@dataclass
class ToyDataset:
    """Examples that are their own number, repeated."""

    sizes: list[int]

    @cached_property
    def lengths(self):
        return {"inputs": np.array(self.sizes, np.int32), "targets": np.array(self.sizes[::-1], np.int32)}

    def __len__(self):
        return len(self.sizes)

    def batch(self, indices):
        return {"inputs": indices[:, None] + 1, "targets": indices[:, None] + 1}


@given(st.lists(st.integers(1, 30), min_size=2, max_size=60), st.integers(0, 40), st.sampled_from([1, 2, 3]))
@SETTINGS
def test_a_stream_continued_from_its_position_is_the_same_stream(sizes, stop, world_size):
    def stream(position):
        return BatchStream(
            ToyDataset(sizes),
            batch_size=40,
            max_length=30,
            seed=7,
            rank=world_size - 1,
            world_size=world_size,
            position=position,
        )

    whole = stream(Position())
    batches = [next(whole)["inputs"].tolist() for _ in range(stop + 20)]
    first = stream(Position())
    for _ in range(stop):
        next(first)
    resumed = stream(first.position)
    assert [next(resumed)["inputs"].tolist() for _ in range(20)] == batches[stop:]
    assert resumed.position == whole.position


def test_a_stream_goes_through_whole_epochs():
    stream = BatchStream(ToyDataset([5, 9, 9, 20, 3]), batch_size=20, max_length=19, seed=0)
    assert stream.plan.skipped.tolist() == [1, 3]
    for epoch in range(3):
        seen: list[int] = []
        while stream.position.epoch == epoch:
            seen.extend(next(stream)["inputs"][:, 0] - 1)
        assert sorted(seen) == [0, 2, 4]


def test_a_stream_without_any_fitting_example_is_refused():
    with pytest.raises(InputError, match="max_length = 4"):
        BatchStream(ToyDataset([5, 6]), batch_size=20, max_length=4, seed=0)


@given(st.integers(0, 200), st.integers(1, 50), st.integers(0, 3), st.integers(1, 4))
@SETTINGS
def test_without_text_a_batch_size_counts_examples(examples, batch_size, epoch, world_size):
    plans = [
        plan_epoch(
            {},
            batch_size=batch_size,
            max_length=1,
            seed=1,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            examples=examples,
        )
        for rank in range(world_size)
    ]
    together = [batch for step in zip(*(plan.batches for plan in plans), strict=True) for batch in step]
    assert sorted(np.concatenate(together)) == list(range(examples))
    sizes = [len(batch) for batch in together if len(batch)]
    assert max(sizes, default=0) <= batch_size
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert len(sizes) == -(-examples // batch_size)
    assert not any(len(plan.skipped) for plan in plans)


def test_evaluation_without_text_goes_through_the_examples_in_order():
    batches = plan_evaluation(example_lengths({}, 10), batch_size=4)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@dataclass
class ToyNumbers:
    """Examples that are their own number, and no text."""

    size: int

    def __len__(self):
        return self.size

    @property
    def lengths(self):
        return {}

    def batch(self, indices):
        return {"number": indices.astype(np.float32)}


def _noise(batch, generator):
    return {"number": batch["number"] + generator.random(len(batch["number"]))}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_augmentation_depends_on_the_place_in_the_data_alone(world_size):
    """Not on where a run was stopped, nor on the number of processes."""

    def stream(rank, world_size, position):
        return BatchStream(
            ToyNumbers(31),
            batch_size=5,
            max_length=1,
            seed=4,
            rank=rank,
            world_size=world_size,
            position=position,
            augment=_noise,
        )

    alone = stream(0, 1, Position())
    expected = [next(alone)["number"].tolist() for _ in range(14)]  # two epochs
    streams = [stream(rank, world_size, Position()) for rank in range(world_size)]
    found = []
    for _ in range(2 * -(-7 // world_size)):
        streams = [stream(rank, world_size, streams[rank].position) for rank in range(world_size)]  # resumed each time
        found += [next(one)["number"].tolist() for one in streams]
    assert [batch for batch in found if batch] == expected
    assert len({round(value % 1, 6) for batch in expected for value in batch}) == 62
