"""Classes have one order and one way to be shown, wherever they come from."""

from __future__ import annotations

import pytest

from t2tdeploy.problems.classes import in_class_order, is_no_class, shown_classes


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["b", "10", "9", "a", "-1"], ("-1", "9", "10", "a", "b")),
        (["nan", "2", "inf", "1.5"], ("1.5", "2", "inf", "nan")),
        (["01", "1"], ("01", "1")),
    ],
)
def test_numbers_come_by_their_value_before_names(names: list[str], order: tuple[str, ...]) -> None:
    assert in_class_order(names) == in_class_order(reversed(names)) == order


def test_a_wrong_name_meets_the_nearest_and_the_choices() -> None:
    assert is_no_class(("cat", "dog"), "cta") == "is no class (did you mean 'cat'?); classes: cat, dog"


def test_many_are_cut_and_counted() -> None:
    shown = shown_classes([str(number) for number in range(30)])
    assert shown.startswith("0, 1, 2")
    assert shown.endswith("19, … (30 in all)")
