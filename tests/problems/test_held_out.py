"""Rows held out of train: by their content, of every class its share, equal rows together."""

from __future__ import annotations

from collections import Counter

import numpy as np
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
