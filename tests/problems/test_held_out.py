"""Rows held out of train: by their content, of every class its share, equal rows together."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.problems.held_out import hold_out, others, row_hashes
from t2tdeploy.problems.rows import Rows

labelled = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=80)


@given(labelled, st.integers(0, 10), st.integers(0, 10))
def test_splits_are_disjoint_and_every_class_keeps_a_row(rows: list[tuple[int, str]], dev: int, test: int) -> None:
    hashes, classes = [hash(row) for row in rows], [label for _, label in rows]
    found = hold_out(hashes, classes, {"dev": dev, "test": test})
    train = others(len(rows), found)
    everywhere = [*train, *found["dev"], *found["test"]]
    assert sorted(everywhere) == list(range(len(rows)))
    assert {classes[index] for index in train} == set(classes)
    homes = [{hashes[index] for index in part} for part in (train, found["dev"], found["test"])]
    assert sum(map(len, homes)) == len(set(hashes))  # equal rows are in one split


@given(labelled, st.randoms())
def test_the_order_of_rows_does_not_matter(rows: list[tuple[int, str]], random: object) -> None:
    mixed = list(rows)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    chosen = [
        Counter(some[index] for index in hold_out([hash(r) for r in some], [c for _, c in some], {"dev": 9})["dev"])
        for some in (rows, mixed)
    ]
    assert chosen[0] == chosen[1]


@given(labelled, st.integers(0, 20), st.integers(0, 20))
def test_no_split_gets_more_than_twice_its_quota(rows: list[tuple[int, str]], dev: int, test: int) -> None:
    classes, sizes = [label for _, label in rows], Counter(label for _, label in rows)
    wanted = {"dev": min(dev, len(rows)), "test": min(test, len(rows))}
    for split, indices in hold_out([hash(row) for row in rows], classes, wanted).items():
        for label, taken in Counter(classes[index] for index in indices).items():
            quota = math.ceil(wanted[split] * sizes[label] / len(rows))
            groups = Counter(rows[index] for index in indices if classes[index] == label)
            assert taken <= quota or (len(groups) == 1 and taken <= 2 * quota)


@given(labelled, st.integers(0, 20))
def test_a_group_stays_in_train_where_it_would_overshoot_or_is_the_last(rows: list[tuple[int, str]], dev: int) -> None:
    classes, sizes = [label for _, label in rows], Counter(label for _, label in rows)
    wanted = min(dev, len(rows))
    chosen = hold_out([hash(row) for row in rows], classes, {"dev": wanted})
    taken = Counter(classes[index] for index in chosen["dev"])
    left: dict[str, Counter[tuple[int, str]]] = {label: Counter() for label in sizes}
    for index in others(len(rows), chosen):
        left[classes[index]][rows[index]] += 1
    for label, groups in left.items():
        room = wanted * sizes[label] // len(rows) - taken[label]
        assert len(groups) == 1 or min(groups.values()) > (room if taken[label] else 2 * room)


def test_a_large_group_makes_way_for_smaller_ones() -> None:
    hashes = [1] * 6 + [2] * 3 + [3] * 4 + [4, 5] + [6] * 85
    found = hold_out(hashes, ["a"] * 100, {"dev": 5, "test": 5})
    assert Counter(hashes[index] for index in found["dev"]) == {2: 3, 4: 1, 5: 1}
    assert Counter(hashes[index] for index in found["test"]) == {3: 4}


@pytest.mark.parametrize(("size", "taken"), [(20, 20), (25, 0)])
def test_where_every_group_is_larger_than_the_quota_one_up_to_twice_it_is_taken(size: int, taken: int) -> None:
    found = hold_out([place // size for place in range(100)], ["a"] * 100, {"dev": 10})
    assert found["dev"].size == taken


def test_classes_give_their_share() -> None:
    classes = ["a"] * 700 + ["b"] * 200 + ["c"] * 100
    found = hold_out(list(range(1000)), classes, {"dev": 100, "test": 50})
    assert Counter(classes[index] for index in found["dev"]) == {"a": 70, "b": 20, "c": 10}
    assert Counter(classes[index] for index in found["test"]) == {"a": 35, "b": 10, "c": 5}


def test_a_hash_depends_on_the_values_of_its_row_alone() -> None:
    rows = Rows({"a": np.array([1.0, 2.0, 1.0]), "b": ["x", None, "x"]}, "here")
    first, second, third = row_hashes(rows)
    assert first == third != second
    assert row_hashes(Rows({"b": ["", "x"], "a": [2, 1]}, "there")) == [second, first]
