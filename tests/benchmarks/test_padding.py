"""How the benchmark of padding compares: within a round, and of each batch its fastest step."""

from __future__ import annotations

from padding import summary


def test_ratios_compare_within_a_round() -> None:
    left_out = [[1.0, 2.0], [10.0, 5.0], [2.0, 1.0]]
    found = summary({"left_out": left_out, "computed": [[2.0, 4.0], [20.0, 25.0], [2.0, 1.0]]})
    assert (found["ratio"], found["quartiles"]) == (2.0, [1.5, 2.5])
    assert found["of_fastest"] == 1.5
    assert found["ms_per_step"] == {"left_out": 2000.0, "computed": 3000.0}
